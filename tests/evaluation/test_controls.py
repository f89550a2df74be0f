"""Controls against doing the same by hand: a table without the modality, photos handed round, scikit-learn."""

import json
import sys

import numpy as np
import pytest
from datasets import Dataset, Features, Value, concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from emocap.cli import main
from emocap.data.pairs import label_matrix
from emocap.data.storage import load_table
from emocap.evaluation.baselines import caption_embeddings, encoder_regression, tfidf_regression
from emocap.evaluation.calibration import fit_thresholds
from emocap.evaluation.controls import CONTROLS, measure_controls, merge_labels, partners
from emocap.evaluation.inference import load_model, score_table
from emocap.metrics import compute_metrics, prior_probabilities

PHOTO_COLUMNS = ["image", "region_features", "region_boxes", "num_regions"]


@pytest.fixture(scope="module")
def measured(tiny_teacher, tiny_table_dir):
    tables = load_table(tiny_table_dir)
    model, processor = load_model(tiny_teacher)
    model.config.thresholds = [0.4, 0.5, 0.45, 0.5, 0.55]
    own = score_table(model, processor, tables["test"])
    metrics = measure_controls(model, processor, tables, "test", own, encoder=tiny_teacher, num_resamples=50)
    return tables, model, processor, own, metrics


def figures(metrics, name):
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): value
        for key, value in metrics.items()
        if key.startswith(prefix) and value is not None
    }


def check(metrics, name, scores, labels, votes=None, thresholds=None):
    expected = compute_metrics(scores, labels, votes, thresholds)
    found = figures(metrics, name)
    for key, value in expected.items():
        if key != "num_examples" and not np.isnan(value) and key != "entropy_correlation":
            assert found[key] == pytest.approx(value, abs=1e-6), (name, key)


def test_single_modalities_give_the_prior_to_rows_without_it(measured):
    tables, model, processor, own, metrics = measured
    table = tables["test"]
    labels, votes = label_matrix(table, "labels"), np.array(table["votes"][:])
    prior = prior_probabilities(label_matrix(tables["train"], "labels"))
    for modality in ("text", "image"):
        scores = np.tile(prior, (len(table), 1))
        readable = 0
        for row in range(len(table)):
            if table[row]["captions"] if modality == "text" else table[row]["num_regions"]:
                scores[row] = score_table(model, processor, table.select([row]), modalities=modality)[0]
                readable += 1
        assert 0 < readable < len(table)
        check(metrics, f"{modality}_only", scores, labels, votes, model.config.thresholds)


def test_shuffles_are_those_of_a_table_whose_photos_were_handed_round(measured):
    tables, model, processor, own, metrics = measured
    table = tables["test"]
    both = [row for row in range(len(table)) if table[row]["captions"] and table[row]["num_regions"]]
    partner = partners(np.array(both), len(table), 0)
    assert sorted(partner) == list(range(len(table)))
    assert all((partner[row] != row) == (row in both) for row in range(len(table)))
    photos = table.select_columns(PHOTO_COLUMNS).select(partner).flatten_indices()
    handed = concatenate_datasets([table.remove_columns(PHOTO_COLUMNS), photos], axis=1)
    scores = score_table(model, processor, handed)
    labels, votes = label_matrix(table, "labels"), np.array(table["votes"][:])
    check(metrics, "shuffled_images", scores, labels, votes, model.config.thresholds)
    check(metrics, "shuffled_captions", scores, labels[partner], votes[partner], model.config.thresholds)


def test_regressions_equal_scikit_learn(measured, tiny_teacher):
    tables, _, _, _, metrics = measured
    texts = {name: [" ".join(own) for own in split["captions"][:]] for name, split in tables.items()}
    truth = {name: label_matrix(split, "labels") for name, split in tables.items()}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(texts["train"])
    scores = {name: np.zeros((len(split), 5)) for name, split in tables.items()}
    for label in range(5):
        model = LogisticRegression(C=1.0, max_iter=2000)
        model.fit(vectorizer.transform(texts["train"]), truth["train"][:, label])
        for name in scores:
            scores[name][:, label] = model.predict_proba(vectorizer.transform(texts[name]))[:, 1]
    cut = fit_thresholds(scores["validation"], truth["validation"])
    check(metrics, "tfidf", scores["test"], truth["test"], np.array(tables["test"]["votes"][:]), cut)


def test_the_encoder_reads_words_and_regions(measured, tiny_teacher):
    tables, _, _, _, metrics = measured
    features = {}
    for name, split in tables.items():
        regions = np.zeros((len(split), 32))
        for row, (flat, count) in enumerate(zip(split["region_features"][:], split["num_regions"][:], strict=True)):
            if count:
                own = np.array(flat, dtype=np.float32).reshape(36, 16)[:count]
                regions[row] = [*own.mean(0), *own.max(0)]
        (words,) = caption_embeddings(tiny_teacher, [split])
        features[name] = words, regions
    mean, spread = features["train"][1].mean(0), features["train"][1].std(0)
    inputs = {
        name: np.concatenate([words, (own - mean) / spread / 32**0.5], 1) for name, (words, own) in features.items()
    }
    truth = {name: label_matrix(split, "labels") for name, split in tables.items()}
    models = [LogisticRegression(C=1.0, max_iter=2000).fit(inputs["train"], own) for own in truth["train"].T]
    scores = {name: np.stack([model.predict_proba(own)[:, 1] for model in models], 1) for name, own in inputs.items()}
    assert metrics["encoder/bce"] == pytest.approx(compute_metrics(scores["test"], truth["test"])["bce"], rel=1e-3)


def test_caption_embeddings_are_means_over_words_and_captions(tiny_bert):
    captions = [["the dog", "a child at the house"], [], ["rocket"]]
    table = Dataset.from_dict({"captions": captions}, Features({"captions": [Value("string")]}))
    (found,) = caption_embeddings(tiny_bert, [table])
    model, tokenizer = AutoModel.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)
    for row, own in zip(found, captions, strict=True):
        means = []
        for caption in own:
            states = model(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0].detach().numpy()
            means.append(states.mean(0) / np.linalg.norm(states.mean(0)))
        np.testing.assert_allclose(row, np.mean(means, axis=0) if means else 0 * row, atol=1e-5)


def test_labels_that_never_or_always_hold_keep_that_answer(tiny_table, tiny_bert):
    def constant(row):
        return {"labels": [1.0, 0.0, *row["labels"][2:]]}

    tables = tiny_table.map(constant)
    for scores in (
        tfidf_regression(tables["train"], [tables["test"]]),
        encoder_regression(tiny_bert, tables["train"], [tables["test"]]),
    ):
        assert (scores[0][:, 0] == 1).all() and (scores[0][:, 1] == 0).all() and np.ptp(scores[0][:, 2]) > 0


def test_merging_takes_unions():
    names = ["awe", "anger", "joy", "angry"]
    values = np.array([[0.1, 0.5, 0.2, 0.4], [0.0, 1.0, 1.0, 0.0]])
    merged, kept = merge_labels(values, names, are_probabilities=True)
    assert kept == ["awe", "anger", "joy"]
    np.testing.assert_allclose(merged, [[0.1, 0.7, 0.2], [0, 1, 1]])
    truth, _ = merge_labels(np.array([[0, 0, 1, 1.0], [0, 0, 0, 0]]), names, are_probabilities=False)
    assert truth.tolist() == [[0, 1, 1], [0, 0, 0]]
    same, kept = merge_labels(values[:, :2], names[:2], are_probabilities=True)
    assert kept == names[:2] and (same == values[:, :2]).all()


def test_the_command_writes_every_control_beside_the_model(
    tiny_teacher, tiny_student, tiny_table_dir, tmp_path, capsys
):
    rest = ["--dataset", tiny_table_dir, "--controls", "--num_resamples", "20"]
    main(["evaluate", tiny_teacher, *rest, "--output", f"{tmp_path}/teacher.json", "--encoder", tiny_teacher])
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "teacher.json").read_text())
    expected = set(CONTROLS) - {"merged", "merged_prior"}  # the tiny table has no synonyms
    assert {key.partition("/")[0] for key in metrics if "/" in key} == expected | {"prior", "human"}
    for name in expected:
        assert metrics[f"{name}/map_macro_low"] <= metrics[f"{name}/map_macro_high"]
        gain = metrics["map_macro"] - metrics[f"{name}/map_macro"]
        assert metrics[f"{name}/map_macro_gain"] == pytest.approx(gain)
        assert f"\n{name}" in printed
    main(["evaluate", tiny_student, *rest, "--output", f"{tmp_path}/student.json"])
    student = json.loads((tmp_path / "student.json").read_text())
    assert "encoder/map_macro" not in student and "shuffled_images/map_macro" in student


def test_without_scikit_learn_the_door_says_how_to_install_it(tiny_teacher, tiny_table_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit):
        main(["evaluate", tiny_teacher, "--dataset", tiny_table_dir, "--controls"])
    assert 'pip install "emocap[controls]"' in capsys.readouterr().err
