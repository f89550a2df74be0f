"""Losses beside their papers' formulas written as loops, and their gradients at the ends of the scale."""

import math

import numpy as np
import pytest
import torch

from emocap.models import EmocapStudentConfig, EmocapTeacherConfig
from emocap.models.common_emocap import multi_label_loss

ROWS, LABELS = 7, 5
SETTINGS = {
    "bce": {},
    "weighted bce": {"pos_weight": 3.0},
    "smoothed bce": {"label_smoothing": 0.2},
    "smoothed weighted bce": {"pos_weight": 2.5, "label_smoothing": 0.1},
    "asl": {"loss": "asl"},
    "smoothed asl": {"loss": "asl", "label_smoothing": 0.3},
    "db": {"loss": "db"},
    "smoothed db": {"loss": "db", "label_smoothing": 0.1},
}


def make_config(prior: np.ndarray | None = None, **fields) -> EmocapStudentConfig:
    return EmocapStudentConfig(
        num_labels=LABELS, label_prevalence=None if prior is None else [float(share) for share in prior], **fields
    )


def plain_entry(z: float, y: np.ndarray, i: int, prior: np.ndarray, config: EmocapStudentConfig) -> float:
    """The loss of one entry, straight from the papers; `y` is the row's smoothed labels."""
    p = 1 / (1 + math.exp(-z))
    if config.loss == "asl":
        shifted = max(p - 0.05, 0)
        return -y[i] * math.log(p) - (1 - y[i]) * shifted**4 * math.log(1 - shifted)
    if config.loss == "db":
        number = 1000  # of training images: cancels in the weights
        class_level = 1 / LABELS / (number * prior[i])
        instance_level = sum(y[j] / (number * prior[j]) for j in range(LABELS)) / LABELS
        weight = 0.1 + 1 / (1 + math.exp(-10 * (class_level / max(instance_level, 1e-12) - 0.2)))
        bias = -math.log(number / (number * prior[i]) - 1) * 0.05 / 2
        entry = 0
        for is_there, scale in ((y[i], 1), (1 - y[i], 2)):  # negatives: logits doubled, weight halved
            shifted = scale * (z + bias)
            truth = 1 / (1 + math.exp(-shifted if scale == 1 else shifted))  # probability of what is so
            entry += is_there * 2 * (1 - truth) ** 2 * weight / scale * -math.log(truth)
        return entry
    weight = 1 if config.pos_weight is None else min((1 - prior[i]) / prior[i], config.pos_weight)
    return -weight * y[i] * math.log(p) - (1 - y[i]) * math.log(1 - p)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_each_loss_equals_its_formula(settings, soft, rng):
    prior, logits = rng.uniform(0.02, 0.7, LABELS), rng.normal(0, 3, (ROWS, LABELS))
    labels = rng.random((ROWS, LABELS)) if soft else (rng.random((ROWS, LABELS)) < 0.4).astype(float)
    labels[0] = 0 if not soft else labels[0]  # a row without positives
    counts = rng.random((ROWS, 1))
    config = make_config(prior, **settings)
    entries = np.zeros((ROWS, LABELS))
    for row in range(ROWS):
        smoothed = (1 - config.label_smoothing) * labels[row] + config.label_smoothing * prior
        for label in range(LABELS):
            entries[row, label] = plain_entry(logits[row, label], smoothed, label, prior, config)
    given = torch.from_numpy(logits), torch.from_numpy(labels), config
    assert multi_label_loss(*given).item() == pytest.approx(entries.mean(), rel=1e-6)
    weighted = multi_label_loss(*given, torch.from_numpy(counts)).item()
    assert weighted == pytest.approx((entries * counts).mean(), rel=1e-6)
    narrow = multi_label_loss(given[0].bfloat16(), given[1].float(), config)
    assert narrow.dtype == torch.float32
    exact = multi_label_loss(given[0].bfloat16().double(), given[1], config)
    assert narrow.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_stay_finite_at_extreme_logits(settings, dtype):
    prior = np.array([0.0, 1.0, 1e-9, 0.3, 0.5])  # an emotion that nobody felt, and one that everybody did
    ends = [-3e38, -1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4, 3e38]
    ends = ends[1:-1] if settings.get("loss") == "db" else ends  # whose scale doubles logits
    for labels in (torch.zeros(LABELS), torch.ones(LABELS), torch.full((LABELS,), 0.3)):
        logits = torch.tensor(ends, dtype=dtype)[:, None].repeat(1, LABELS).requires_grad_()
        loss = multi_label_loss(logits, labels.expand(len(ends), LABELS), make_config(prior, **settings))
        loss.backward()
        assert torch.isfinite(logits.grad).all()
        assert torch.isfinite(loss) or max(ends) > 1e5


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_gradients_equal_finite_differences(settings):
    logits = torch.randn(3, LABELS, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(3, LABELS) < 0.5).double()
    config = make_config(np.array([0.05, 0.1, 0.2, 0.4, 0.6]), **settings)
    assert torch.autograd.gradcheck(lambda values: multi_label_loss(values, labels, config), logits)


def test_the_distribution_balanced_loss_has_its_focal_term():
    """An entry that is right already counts far less than without the term, one that is wrong about as much."""
    config, labels = make_config(np.full(LABELS, 0.5), loss="db"), torch.zeros(1, LABELS, dtype=torch.float64)

    def loss(z: float) -> float:
        return multi_label_loss(torch.full((1, LABELS), z, dtype=torch.float64), labels, config).item()

    def plain(z: float) -> float:
        return (0.1 + 1) * 2.0 * math.log(1 + math.exp(2 * z)) / 2  # a row without positives has the highest weight

    assert loss(-2.0) == pytest.approx(plain(-2.0) * (1 / (1 + math.exp(4))) ** 2)
    assert loss(9.0) == pytest.approx(plain(9.0), rel=1e-6)


@pytest.mark.parametrize("kind", [EmocapStudentConfig, EmocapTeacherConfig])
def test_settings_that_do_not_go_together_are_refused(kind):
    for fields, words in (
        ({"loss": "focal"}, "loss is 'focal'; it must be one of bce, asl, db"),
        ({"loss": "asl", "pos_weight": 2.0}, "goes with 'bce' alone"),
        ({"pos_weight": 0}, "it must be positive"),
        ({"label_smoothing": 1.0}, "at least 0 and below 1"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(**fields)


@pytest.mark.parametrize("fields", [{"loss": "db"}, {"pos_weight": 5.0}, {"label_smoothing": 0.1}])
def test_a_missing_prior_is_named(fields):
    with pytest.raises(ValueError, match="label_prevalence is absent"):
        multi_label_loss(torch.zeros(2, LABELS), torch.zeros(2, LABELS), make_config(**fields))
    with pytest.raises(ValueError, match="label_prevalence is 3 numbers; .* of each of the 5 labels"):
        multi_label_loss(torch.zeros(2, LABELS), torch.zeros(2, LABELS), make_config(np.full(3, 0.1), **fields))
