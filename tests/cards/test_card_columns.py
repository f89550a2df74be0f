"""Every cell of a card's tables stands under its own heading."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig

from emocap.cards.datasets import dataset_card
from emocap.cards.models import model_card
from emocap.data.storage import save_table
from emocap.pseudo_labels.labelling import label_tables

KEYS = ("map_macro", "map_micro", "lrap", "top1_accuracy", "top3_accuracy", "f1_micro", "jaccard", "ece", "jsd", "bce")
PREFIXES = {
    "model": "",
    "prior": "prior/",
    "chance": "chance/",
    "one annotator": "human/",
    "model as one": "as_human/",
    "ceiling": "ceiling/",
}
CONTROLS = {"tfidf": "TF-IDF", "text_only": "the captions alone", "image_only": "the pictures alone",
            "shuffled_images": "another row's picture", "shuffled_captions": "another row's caption"}  # fmt: skip
GAINS = ("map_macro", "lrap", "bce")


def tables_of(text: str) -> list[dict[str, dict[str, str]]]:
    """A card's markdown tables: cells by the first cell of their row and the heading of their column."""
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("| ") or line.startswith("|--"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            header, _, *rows = lines
            found.append({row[0]: dict(zip(header, row, strict=True)) for row in rows})
            lines = []
    return found


@pytest.fixture
def card(tmp_path, tiny_teacher):
    """Text of the card of a run whose figures are all different, with the figures and the configuration."""
    figures = iter(range(1, 1000))

    def value() -> float:
        return next(figures) / 1000

    metrics = {prefix + key: value() for key in KEYS for prefix in PREFIXES.values()}
    metrics |= {f"{key}_{end}": value() for key in KEYS for end in ("low", "high")}
    for name in CONTROLS:
        metrics |= {f"{name}/map_macro{end}": value() for end in ("", "_low", "_high")}
        metrics |= {f"{name}/{key}_gain{end}": value() for key in GAINS for end in ("", "_low", "_high")}
    folder = tmp_path / "run"
    shutil.copytree(tiny_teacher, folder)
    config = AutoConfig.from_pretrained(folder)
    config.label_prevalence = [value() for _ in config.id2label]
    config.thresholds = [value() for _ in config.id2label]
    config.save_pretrained(folder)
    arguments = {"kind": "teacher", "dataset": "me/pairs", "output_dir": "run"}
    (folder / "run_arguments.json").write_text(json.dumps(arguments))
    about = {"split": "test", "truth": "labels", "num_examples": 900}
    (folder / "metrics.json").write_text(json.dumps(metrics | about))
    return model_card(folder, "me/model").text, metrics, config


def test_results_stand_under_what_they_are_results_of(card):
    text, metrics, _ = card
    (results,) = [own for own in tables_of(text) if "lrap" in own and "prior" in own["lrap"]]
    assert set(results) == set(KEYS)
    for key in KEYS:
        expected = {name: f"{metrics[prefix + key]:.3f}" for name, prefix in PREFIXES.items()}
        expected |= {"metric": key, "95 % interval": f"{metrics[f'{key}_low']:.3f} to {metrics[f'{key}_high']:.3f}"}
        assert results[key] == expected


def test_controls_stand_under_their_metric(card):
    text, metrics, _ = card
    (controls,) = [own for own in tables_of(text) if any("TF-IDF" in name for name in own)]
    for name, words in CONTROLS.items():
        (row,) = [own for about, own in controls.items() if words in about]
        own = {end: metrics[f"{name}/map_macro{end}"] for end in ("", "_low", "_high")}
        assert row["map_macro"] == f"{own['']:.3f}"
        assert row["95 % interval"] == f"{own['_low']:.3f} to {own['_high']:.3f}"
        for key in GAINS:
            gain = {end: metrics[f"{name}/{key}_gain{end}"] for end in ("", "_low", "_high")}
            shown = f"{gain['']:+.3f} ({gain['_low']:+.3f} to {gain['_high']:+.3f})"
            assert row[f"model ahead in {key}"] == shown


def test_an_emotion_has_its_share_and_its_threshold(card):
    text, _, config = card
    (emotions,) = [own for own in tables_of(text) if config.id2label[0] in own]
    for index, name in config.id2label.items():
        assert emotions[name] == {
            "emotion": name,
            "share of the training rows": f"{config.label_prevalence[index]:.3f}",
            "threshold": f"{config.thresholds[index]:.3f}",
        }


def test_an_emotion_of_a_labelled_table_has_its_statistics(tmp_path, tiny_table, tiny_teacher):
    label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"), labels_per_image=2, images_per_label=9)
    (path,) = Path(tmp_path / "out").glob("*statistics.json")
    statistics = json.loads(path.read_text())
    for number, own in enumerate(statistics["emotions"].values()):
        own["prevalence"] = 0.9 - number / 100  # which this teacher does not know
    path.write_text(json.dumps(statistics))
    text = dataset_card(tmp_path / "out", "me/labelled").text
    (emotions,) = [own for own in tables_of(text) if "happy" in own]
    for name, own in statistics["emotions"].items():
        columns = {"share": "share", "teacher's": "prevalence", "mean score": "score_mean", "SD": "score_sd",
                   "lowest kept": "lowest_kept"}  # fmt: skip
        for heading, key in columns.items():
            assert emotions[name][heading] == ("–" if own[key] is None else f"{own[key]:.3f}"), heading
        assert emotions[name]["images"] == str(own["images"]) and emotions[name]["selected"] == str(own["selected"])


def test_a_split_has_its_rows(tmp_path, tiny_table):
    save_table(tiny_table, tmp_path / "table")
    (splits,) = [own for own in tables_of(dataset_card(tmp_path / "table", "table").text) if "validation" in own]
    assert {name: row["images"] for name, row in splits.items()} == {"train": "60", "validation": "20", "test": "21"}
