"""Controls against doing the same by hand: a table without the modality, photos handed round, scikit-learn."""

import itertools
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Value, concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

from emocap.cli import main
from emocap.data.pairs import label_matrix
from emocap.data.storage import load_table
from emocap.evaluation import baselines
from emocap.evaluation.baselines import (
    caption_embeddings,
    encoder_regression,
    lexicon_features,
    lexicon_is_installed,
    lexicon_regression,
    tfidf_regression,
)
from emocap.evaluation.calibration import fit_thresholds
from emocap.evaluation.controls import measure_controls, merge_labels, partners
from emocap.evaluation.regression import STRENGTHS
from emocap.evaluation.scoring import load_model, score_table
from emocap.metrics import compute_metrics, prior_probabilities
from emocap.records import CONTROLS

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
    expected = compute_metrics(scores, labels, votes, thresholds, np.full(len(labels), 7))  # seven were asked
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
    words, pictures = {}, {}
    for name, split in tables.items():
        regions = np.zeros((len(split), 32))
        for row, (flat, count) in enumerate(zip(split["region_features"][:], split["num_regions"][:], strict=True)):
            if count:
                own = np.array(flat, dtype=np.float32).reshape(36, 16)[:count]
                regions[row] = [*own.mean(0), *own.max(0)]
        (words[name],) = caption_embeddings(tiny_teacher, [split])
        pictures[name] = regions
    mean, spread = pictures["train"].mean(0), pictures["train"].std(0)
    pictures = {name: (own - mean) / spread / 32**0.5 for name, own in pictures.items()}
    truth = {name: label_matrix(split, "labels") for name, split in tables.items()}
    best = None
    for layers in ([0], [1], [2], [0, 1], [1, 2], [0, 1, 2]):  # the embeddings and two layers
        inputs = {
            name: np.concatenate([*(words[name][:, own] / len(layers) ** 0.5 for own in layers), pictures[name]], 1)
            for name in tables
        }
        for strength in STRENGTHS:
            models = [LogisticRegression(C=strength, tol=1e-7, max_iter=5000).fit(inputs["train"], own)
                      for own in truth["train"].T]  # fmt: skip
            scores = {
                name: np.stack([model.predict_proba(own)[:, 1] for model in models], 1) for name, own in inputs.items()
            }
            loss = compute_metrics(scores["validation"], truth["validation"])["bce"]
            if best is None or loss < best[0]:
                best = loss, scores
    scores = best[1]
    for key in ("bce", "lrap", "map_macro"):
        assert metrics[f"encoder/{key}"] == pytest.approx(
            compute_metrics(scores["test"], truth["test"])[key], rel=2e-3
        )


def test_caption_embeddings_are_means_over_words_and_captions(tiny_bert):
    captions = [["the dog", "a child at the house"], [], ["rocket"]]
    table = Dataset.from_dict({"captions": captions}, Features({"captions": [Value("string")]}))
    (found,) = caption_embeddings(tiny_bert, [table])
    model, tokenizer = AutoModel.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)
    for row, own in zip(found, captions, strict=True):
        means = []
        for caption in own:
            output = model(**tokenizer(caption, return_tensors="pt"), output_hidden_states=True)
            layers = [states[0].detach().numpy().mean(0) for states in output.hidden_states]
            means.append([mean / np.linalg.norm(mean) for mean in layers])
        np.testing.assert_allclose(row, np.mean(means, axis=0) if means else 0 * row, atol=1e-5)


def test_a_caption_is_embedded_once(tiny_bert, monkeypatch):
    def table(*captions):
        return Dataset.from_dict({"captions": captions}, Features({"captions": [Value("string")]}))

    known = {}
    one = caption_embeddings(tiny_bert, [table(["the dog", "rocket"], ["rocket"])], known)[0]
    assert known.keys() == {"the dog", "rocket"}
    monkeypatch.setattr(baselines, "embed", None)
    two = caption_embeddings(tiny_bert, [table(["rocket"], [], ["rocket", "the dog"])], known)[0]
    np.testing.assert_allclose(two, [one[1], 0 * one[1], one[0]], atol=1e-6)


def test_labels_that_never_or_always_hold_keep_that_answer(tiny_table, tiny_bert):
    def constant(row):
        return {"labels": [1.0, 0.0, *row["labels"][2:]]}

    tables = tiny_table.map(constant)
    (scores,) = tfidf_regression(tables["train"], [tables["test"]])
    assert (scores[:, 0] == 1).all() and (scores[:, 1] == 0).all() and np.ptp(scores[:, 2]) > 0
    (scores,) = encoder_regression(tiny_bert, tables["train"], tables["validation"], [tables["test"]])
    assert (scores[:, 0] > 0.999).all() and (scores[:, 1] < 0.001).all() and np.ptp(scores[:, 2]) > 0


lexicon = pytest.mark.skipif(not lexicon_is_installed(), reason="needs pip install 'emocap[lexicon]'")


@lexicon
def test_lexicon_features_are_words_in_lists_and_vader_s_scores():
    files = {Path(str(file)).name: file.locate() for file in metadata.files("nrclex")}
    lists = json.loads(Path(files["nrc_en.json"]).read_text("utf-8"))
    names = sorted(set(itertools.chain(*lists.values())))
    assert names == ["anger", "anticipation", "disgust", "fear", "joy", "negative", "positive", "sadness", "surprise",
                     "trust"]  # fmt: skip
    words = {
        "An angry mob, a HAPPY child; the funeral isn't fun!": ["angry", "mob", "happy", "child", "funeral", "fun"],
        "": [],
        "... 42": [],
        "rain rain abandon": ["rain", "rain", "abandon"],
        "joys, thieves' and feared": ["joy", "fear"],  # without their endings
    }
    found = lexicon_features(list(words))
    for row, (text, known) in zip(found, words.items(), strict=True):
        for place, name in enumerate(names):
            assert row[place] == sum(name in lists.get(word, ()) for word in known), (text, name)
    assert found.shape == (5, 15) and found[0][names.index("joy")] > 0 and found[3][names.index("fear")] == 1
    np.testing.assert_allclose(found[:, 10], np.log([11, 1, 1, 4, 5]))
    assert found[3][11] > 0 > found[3][14]  # VADER: negative words, compound below 0


@lexicon
def test_lexicon_regression_equals_scikit_learn(tiny_table):
    train, validation, test = (tiny_table[name] for name in ("train", "validation", "test"))
    texts = {name: [" ".join(own) for own in split["captions"][:]] for name, split in tiny_table.items()}
    features = {name: lexicon_features(own) for name, own in texts.items()}
    mean, spread = features["train"].mean(0), features["train"].std(0) + 1e-6
    features = {name: (own - mean) / spread / 15**0.5 for name, own in features.items()}
    truth = {name: label_matrix(split, "labels") for name, split in tiny_table.items()}
    by_loss = {}
    for strength in STRENGTHS:
        models = [LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(features["train"], own)
                  for own in truth["train"].T]  # fmt: skip
        scores = {name: np.stack([m.predict_proba(own)[:, 1] for m in models], 1) for name, own in features.items()}
        by_loss[compute_metrics(scores["validation"], truth["validation"])["bce"]] = scores["test"]
    (found,) = lexicon_regression(train, validation, [test])
    np.testing.assert_allclose(found, by_loss[min(by_loss)], atol=1e-4)


@lexicon
def test_the_lexica_need_neither_network_nor_nltk():
    code = (
        "import sys, socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from emocap.evaluation.baselines import lexicon_features\n"
        "lexicon_features(['a happy child'])\n"
        "print([name for name in ('nltk', 'textblob', 'nrclex') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr


def test_without_the_lexica_that_control_is_left_out(tiny_table, monkeypatch):
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    found = baselines.regression_baselines(tiny_table["train"], tiny_table["validation"], tiny_table["test"], None)
    assert list(found) == ["tfidf"]


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
    # the tiny table has no synonyms, and one model is no committee
    expected = set(CONTROLS) - {"merged", "merged_prior", "committee"}
    expected -= set() if lexicon_is_installed() else {"lexicon"}
    others = {"prior", "chance", "human", "as_human"}
    assert {key.partition("/")[0] for key in metrics if "/" in key} == expected | others
    for name in expected:
        assert metrics[f"{name}/map_macro_low"] <= metrics[f"{name}/map_macro_high"]
        for key, sign in (("map_macro", 1), ("lrap", 1), ("bce", -1)):
            gain = sign * (metrics[key] - metrics[f"{name}/{key}"])
            assert metrics[f"{name}/{key}_gain"] == pytest.approx(gain)
            assert metrics[f"{name}/{key}_gain_low"] <= gain + 1e-12
            assert metrics[f"{name}/{key}_gain_high"] >= gain - 1e-12
        assert f"\n{name}" in printed
    main(["evaluate", tiny_student, *rest, "--output", f"{tmp_path}/student.json"])
    student = json.loads((tmp_path / "student.json").read_text())
    assert "encoder/map_macro" not in student and "shuffled_images/map_macro" in student


def test_without_scikit_learn_the_door_says_how_to_install_it(tiny_teacher, tiny_table_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit):
        main(["evaluate", tiny_teacher, "--dataset", tiny_table_dir, "--controls"])
    assert 'pip install "emocap[controls]"' in capsys.readouterr().err
