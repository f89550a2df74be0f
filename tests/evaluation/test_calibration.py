"""Temperature and thresholds against plain searches, and what a calibrated checkpoint says afterwards."""

import json
import shutil

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import f1_score

from emocap.cli import main
from emocap.data.pairs import label_matrix
from emocap.evaluation.calibration import fit_temperature, fit_thresholds, temper
from emocap.evaluation.scoring import load_model, score_table
from emocap.metrics import compute_metrics


def test_temper_is_a_stable_sigmoid():
    logits = np.array([[-800.0, -2, 0, 2, 800]], dtype=np.float32)
    np.testing.assert_allclose(temper(logits, 2.0), [[0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1]], atol=1e-12)
    assert (temper(logits, None) == temper(logits, 1.0)).all()


@pytest.mark.parametrize("soft", [False, True])
def test_temperature_undoes_a_known_scale_and_equals_scipy(rng, soft):
    honest = rng.normal(-1, 1.5, (4000, 5))
    chance = temper(honest, None)
    labels = chance if soft else (rng.random(chance.shape) < chance).astype(float)
    fitted = fit_temperature(2.5 * honest, labels)

    def loss(temperature: float) -> float:
        return compute_metrics(temper(2.5 * honest, temperature), labels)["bce"]

    assert fitted == pytest.approx(2.5, rel=1e-6 if soft else 0.1)
    assert fitted == pytest.approx(minimize_scalar(loss, bounds=(0.5, 10), method="bounded").x, rel=1e-3)


def test_temperature_stays_within_bounds_and_is_1_for_a_constant():
    labels = np.array([[1.0, 0], [0, 1]])
    assert fit_temperature(np.zeros((2, 2)), labels) == 1.0
    assert fit_temperature(labels * 2 - 1, labels) == pytest.approx(0.05)
    assert fit_temperature(1 - labels * 2, labels) == pytest.approx(20)


@pytest.mark.parametrize("ties", [False, True])
def test_unshrunk_thresholds_give_each_label_its_best_f1(rng, ties):
    labels = (rng.random((120, 6)) < 0.3).astype(float)
    probabilities = np.clip(0.3 * labels + 0.6 * rng.random(labels.shape), 0, 1)
    if ties:
        probabilities = np.round(probabilities * 5) / 5
    thresholds = fit_thresholds(probabilities, labels, shrinkage=0)
    for label, threshold in enumerate(thresholds):
        scores, truth = probabilities[:, label], labels[:, label]
        best = max(f1_score(truth, scores >= cut) for cut in np.unique(scores))
        assert f1_score(truth, scores >= threshold) == pytest.approx(best)


def test_rare_labels_lean_on_the_common_threshold(rng):
    labels = (rng.random((400, 5)) < [0.4, 0.4, 0.4, 0.4, 0]).astype(float)
    labels[0, 4] = 1
    probabilities = rng.random(labels.shape)
    probabilities[0, 4] = 0.99  # on its own evidence nothing below 0.99 is this emotion
    own, shrunk = (fit_thresholds(probabilities, labels, shrinkage=value) for value in (0, 50))
    common = fit_thresholds(probabilities, labels, shrinkage=1e12)
    assert np.ptp(common) < 1e-6
    cuts = np.unique(probabilities)
    best = max(compute_metrics(probabilities, labels, thresholds=cut)["f1_micro"] for cut in cuts[:: len(cuts) // 200])
    assert compute_metrics(probabilities, labels, thresholds=common)["f1_micro"] >= best
    np.testing.assert_allclose(shrunk[4], own[4] / 51 + common[4] * 50 / 51)
    without = fit_thresholds(probabilities[1:], labels[1:], shrinkage=0)
    assert without[4] == pytest.approx(fit_thresholds(probabilities[1:], labels[1:], shrinkage=1e12)[4])
    assert (fit_thresholds(probabilities, labels * 0) == 0.5).all()


def test_calibrate_writes_what_evaluate_and_scoring_use(tiny_teacher, tiny_table, tiny_table_dir, tmp_path, capsys):
    folder = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, folder)
    before = json.loads((folder / "config.json").read_text())
    main(["evaluate", str(folder), "--dataset", tiny_table_dir, "--split", "validation", "--output",
          str(tmp_path / "before.json")])  # fmt: skip
    main(["calibrate", str(folder), "--dataset", tiny_table_dir])
    assert "temperature" in capsys.readouterr().out
    after = json.loads((folder / "config.json").read_text())
    assert {key: value for key, value in after.items() if before.get(key) != value}.keys() <= {
        "temperature", "thresholds"
    }  # fmt: skip
    assert len(after["thresholds"]) == 5
    main(["evaluate", str(folder), "--dataset", tiny_table_dir, "--split", "validation", "--output",
          str(tmp_path / "after.json")])  # fmt: skip
    old, new = (json.loads((tmp_path / name).read_text()) for name in ("before.json", "after.json"))
    assert old["decisions"] == "0.5" and new["decisions"] == "fitted"
    assert new["bce"] <= old["bce"] + 1e-9 and new["f1_micro"] > old["f1_micro"]
    model, processor = load_model(str(folder))
    probabilities = score_table(model, processor, tiny_table["validation"])
    labels = label_matrix(tiny_table["validation"], "labels")
    assert compute_metrics(probabilities, labels, None, after["thresholds"])["f1_macro"] == pytest.approx(
        new["f1_macro"]
    )
    np.testing.assert_allclose(fit_thresholds(probabilities, labels), after["thresholds"], atol=1e-6)


def test_calibrate_refuses_what_it_cannot_write(tiny_table_dir, tiny_teacher, capsys):
    for flags, message in (
        (["me/teacher"], "give a local folder"),
        ([tiny_teacher, "--split", "val"], "no split 'val'"),
    ):
        with pytest.raises(SystemExit):
            main(["calibrate", *flags, "--dataset", tiny_table_dir])
        assert message in capsys.readouterr().err
