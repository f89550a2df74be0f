"""The studies' training loop, step by step: warm-up, linear decay, weight decay, and the order of the rows."""

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from emocap.evaluation.scoring import load_model
from emocap.studies.runs import Part, Recipe, fit

RECIPE = Recipe(40, 20, 9, learning_rate=0.01, batch_size=16, weight_decay=0.25, metric="map_macro")


@pytest.fixture
def parts(tiny_table, tiny_student):
    model, processor = load_model(tiny_student)
    return model, *(Part(tiny_table[name], processor, "labels", "labels") for name in ("train", "validation"))


def test_every_step_has_its_learning_rate_and_decay(parts):
    model, train, validation = parts
    rates, decays = [], []

    def look(optimizer, *_) -> None:
        rates.append({group["lr"] for group in optimizer.param_groups})
        decays.append({id(own): group["weight_decay"] for group in optimizer.param_groups for own in group["params"]})

    hook = register_optimizer_step_pre_hook(look)
    try:
        fit(model, train, validation, RECIPE, seed=0, steps=40)
    finally:
        hook.remove()
    expected = np.interp(np.arange(40), [0, 3, 4, 40], [0.25, 1, 1, 0])  # a tenth of 40 steps is 4
    assert [len(own) for own in rates] == [1] * 40
    np.testing.assert_allclose([own.pop() for own in rates], 0.01 * expected, rtol=1e-6)
    trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
    for step in (0, 39):
        found = {name: decays[step][id(own)] for name, own in trained.items()}
        assert found == {name: 0.25 if own.ndim > 1 else 0.0 for name, own in trained.items()}


def test_weight_decay_shrinks_what_no_gradient_moves(parts):
    """Embeddings of words that no caption holds move by weight decay alone."""
    model, train, validation = parts
    words = model.get_input_embeddings().weight
    unused = sorted(
        set(range(len(words))) - set(np.concatenate([train.pairs[n]["input_ids"] for n in range(len(train))]))
    )
    assert unused and words.requires_grad
    before = words.detach()[unused].clone()
    fit(model, train, validation, RECIPE._replace(max_steps=10, eval_steps=10), seed=0, steps=10)
    rates = 0.01 * np.interp(np.arange(10), [0, 1, 10], [1, 1, 0])
    torch.testing.assert_close(words.detach()[unused], before * float(np.prod(1 - 0.25 * rates)))


def test_epochs_see_every_pair_once_in_ever_new_order(parts, monkeypatch):
    model, train, validation = parts
    seen, batch = [], Part.batch
    monkeypatch.setattr(Part, "batch", lambda part, rows: seen.append((part, rows.tolist())) or batch(part, rows))

    def orders(seed: int) -> list[list[int]]:
        seen.clear()
        steps = -(-len(train) // 16)
        recipe = RECIPE._replace(max_steps=3 * steps, eval_steps=3 * steps)
        fit(model, train, validation, recipe, seed=seed, steps=3 * steps)
        drawn = [rows for part, rows in seen if part is train]
        return [sum(drawn[start : start + steps], []) for start in range(0, 3 * steps, steps)]

    first = orders(0)
    assert all(sorted(own) == list(range(len(train))) for own in first)
    assert len({tuple(own) for own in [*first, range(len(train))]}) == 4
    assert orders(0) == first != orders(1)
