"""Cards of models and data sets, from a run's own files and from the table and the statistics beside it."""

import html
import json
import re
import shutil

import pytest
from datasets import Dataset, DatasetDict
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, ModelCard, RepoCard
from safetensors import safe_open
from transformers import AutoModel

from emocap.cards.datasets import dataset_card, sparkline
from emocap.cards.models import model_card
from emocap.cards.public_names import PublicNames
from emocap.cards.text import one_line
from emocap.data.schema import pair_features
from emocap.data.storage import load_table, save_table
from emocap.hub.tables import table_configs, write_configs
from emocap.models import EmocapProcessor
from emocap.pseudo_labels.labelling import label_tables
from emocap.scenes.corpus import load_scenes


def test_the_card_of_a_labelled_table_counts_its_emotions(tmp_path, tiny_table, tiny_teacher):
    labelled = label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"), labels_per_image=2, images_per_label=9)
    dataset_card(tmp_path / "out", "me/labelled").save(tmp_path / "README.md")
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.pretty_name == "labelled" and "# labelled" in card.text
    for name, rows in labelled.items():
        assert f"| {name} | {len(rows)} |" in card.text
    names = labelled["train"].features["emotions"].feature.names
    chosen = [names[label] for rows in labelled.values() for own in rows["emotions"] for label in own]
    for name in names:
        assert f"| {name} | {chosen.count(name)} | {chosen.count(name) / 101:.3f} | – |" in card.text
    assert "The labels are a model's guess" in card.text and "pseudo-labels" in card.data.tags
    for line in ("| labels_per_image | 2 |", "| images_per_label | 9 |", "| threshold | none |"):
        assert line in card.text
    assert "Scored by `teacher` (revision `sha256:" in card.text and str(tiny_teacher) not in card.content
    assert "Licences" not in card.text and card.data.license == "unknown"
    assert 'load_dataset("me/labelled")' in card.text
    for column in labelled["train"].column_names:
        assert f"- `{column}`: " in card.text
    assert "{{" not in card.content and "{%" not in card.content


def test_the_card_of_a_table_without_a_report(tmp_path, tiny_table):
    save_table(tiny_table, tmp_path / "table")
    assert list(load_table(tmp_path / "table")) == ["train", "validation", "test"]
    card = dataset_card(tmp_path / "table", "table")
    assert "| train | 60 |" in card.text and "guess" not in card.text and "| happy |" not in card.text


def test_the_card_of_labelled_coco_names_licences_and_the_training_prevalence(tmp_path, tiny_table, tiny_teacher):
    model = AutoModel.from_pretrained(tiny_teacher)
    model.config.label_prevalence, model.config.modalities = [0.7, 0.5, 0.2, 0.05, 0.0], "text"
    model.save_pretrained(tmp_path / "teacher")
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(tmp_path / "teacher")
    licenses = (["Attribution License", "No known copyright restrictions", None] * 20)[:60]
    rows = tiny_table["train"].add_column("license", licenses).add_column("split", ["train2017"] * 60)
    label_tables(DatasetDict({"train": rows}), str(tmp_path / "teacher"), str(tmp_path / "out"))
    card = dataset_card(tmp_path / "out", "me/labelled")
    assert card.data.license == "cc-by-4.0" and "which reads captions alone" in card.text
    kept = [row["license"] for row in rows if row["captions"]]
    for line in (f"| Attribution License | {kept.count('Attribution License')} |",
                 f"| unknown | {kept.count(None)} |", "CC BY 4.0", "crowd workers"):  # fmt: skip
        assert line in card.text
    assert " | 0.700 | " in card.text and " | 0.050 | " in card.text


def test_sparklines():
    assert sparkline([0, 1, 16, 64]) == "_▁▄█" and sparkline([0, 0]) == "__"


HOSTILE = [
    "a|b", "`code`", "two\nlines\n---\n# heading", "<script>alert(1)</script>", "---", "[x](javascript:1)",
    "*b* __c__", "{{ 7 * 7 }}", "```\nfence", "'quoted': \"yes\" # no", "&lt;", "~~~", "https://x.y",
    "\x00\x1b[31m", "| |", "é 中",
]  # fmt: skip


def shape(text: str) -> list[str]:
    """Headings, and how many cells each line of a table has: what data must not change."""
    lines = [line for line in text.splitlines() if line.startswith(("#", "|", "```", "~~~"))]
    return [re.sub(r"[^|]+", "x", line) if line.startswith("|") else line for line in lines]


def test_nothing_from_the_data_breaks_a_card(tmp_path, tiny_teacher):
    def card_of(names: list[str], dataset: str) -> ModelCard:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_teacher, folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"id2label": dict(enumerate(names)), "thresholds": [0.5] * len(names), "temperature": 1.5}
        (folder / "config.json").write_text(json.dumps(config))
        metrics = {"lrap": 0.5, "prior/lrap": 0.25, "split": "test", "truth": "labels", "num_examples": 3}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        arguments = {"kind": "teacher", "dataset": dataset, "model_name_or_path": dataset, "num_rows": {"train": 3}}
        (folder / "run_arguments.json").write_text(json.dumps(arguments))
        return model_card(folder, "me/model")

    plain = card_of([f"label {index}" for index in range(len(HOSTILE))], "/data/plain")
    assert plain.data.base_model is None and plain.data.datasets is None and "/data" not in plain.content
    for name in HOSTILE:
        card = card_of(HOSTILE, f"/data/{name}")
        assert shape(card.text.replace("```\n", "```")) == shape(plain.text.replace("```\n", "```")) or "`" in name
        assert "<script" not in card.text.split("```bash")[0] and "{{" not in card.text.split("```bash")[0]
        results = card.data.eval_results
        assert [result.metric_value for result in results] == [0.5] and "\n" not in results[0].dataset_name
        assert RepoCard(card.content).data.to_dict()["tags"] == plain.data.tags
        assert html.unescape(re.search(r"caption: (.*)\.$", card.text, re.MULTILINE)[1]) == ", ".join(
            map(one_line, HOSTILE)
        )


def test_class_names_survive_the_card_of_a_table(tmp_path):
    features = pair_features([*HOSTILE], votes=False)
    row = {"image_id": "a", "image": None, "captions": ["x"], "labels": [0.0] * len(HOSTILE), "emotions": [1]}
    rows = Dataset.from_dict({name: [value] for name, value in row.items()}, features=features)
    save_table(DatasetDict({"train": rows}), tmp_path / "table")
    metadata = write_configs(table_configs(load_table(tmp_path / "table")), tmp_path / "staged")
    card = RepoCard(dataset_card(tmp_path / "table", "me/table", metadata=metadata).content)
    info = DatasetInfosDict.from_dataset_card_data(card.data)["default"]
    assert info.features == features and info.splits["train"].num_examples == 1


def test_a_card_says_what_the_run_measured(tmp_path, tiny_teacher):
    shutil.copytree(tiny_teacher, tmp_path / "run")
    metrics = {"split": "test", "truth": "labels", "num_examples": 7, "ece": 0.031, "prior/ece": 0.042}
    metrics |= {"lrap": 0.5, "lrap_low": 0.4, "lrap_high": 0.6, "prior/lrap": 0.3}
    metrics |= {"jaccard": 0.25, "prior/jaccard": 0.1, "human/jaccard": 0.7, "as_human/jaccard": 0.65}
    metrics |= {"map_macro": 0.31, "prior/map_macro": 0.2, "chance/map_macro": 0.24}
    metrics |= {"tfidf/map_macro": 0.2, "tfidf/map_macro_gain": 0.11, "tfidf/map_macro_gain_low": 0.01}
    metrics |= {"tfidf/map_macro_gain_high": 0.21, "tfidf/bce_gain": -0.02, "tfidf/bce_gain_low": -0.03}
    metrics |= {"tfidf/bce_gain_high": -0.01}
    arguments = {"kind": "teacher", "dataset": "/x/pairs", "model_name_or_path": "google-bert/bert-base-uncased"}
    arguments |= {"mix_dataset": "me/other", "learning_rate": 0.5, "output_dir": "/x/run", "pooling": "mean"}
    state = {"log_history": [{"train_runtime": 61.2}], "global_step": 40, "epoch": 2.0}
    for name, content in (("metrics", metrics), ("run_arguments", arguments), ("trainer_state", state)):
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "run" / "emissions.csv").write_text("duration,emissions\n1,0.002\n2,0.0015\n")
    card = model_card(tmp_path / "run", "me/model")
    for line in (
        "| metric | model | 95 % interval | prior | chance | one annotator | model as one |",
        "| lrap | 0.500 | 0.400 to 0.600 | 0.300 | – | – | – |",
        "| map_macro | 0.310 | – | 0.200 | 0.240 | – | – |",
        "| jaccard | 0.250 | – | 0.100 | – | 0.700 | 0.650 |",
        "| TF-IDF of words and pairs of words, logistic regression | 0.200 | – | +0.110 (+0.010 to +0.210) | – | "
        "-0.020 (-0.030 to -0.010) |",
        "Expected calibration error on the test split: 0.031; of the prior: 0.042.",
        "emocap train-teacher --dataset pairs --mix_dataset me/other --model_name_or_path "
        "google-bert/bert-base-uncased --pooling mean --learning_rate 0.5 --output_dir run",
        "Training took 61 s: 40 steps, 2.0 epochs. It emitted 3.5 g CO2eq, as codecarbon estimated.",
        "- starts from [google-bert/bert-base-uncased](",
        "- is trained beside on [me/other](",
    ):
        assert line in card.text, line
    data = card.data.to_dict()
    assert data["base_model"] == ["google-bert/bert-base-uncased"] and data["datasets"] == ["me/other"]
    assert data["co2_eq_emissions"]["emissions"] == 3.5
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["lrap"].metric_args == {"interval_95": [0.4, 0.6]} and results["ece"].metric_args is None
    with safe_open(tmp_path / "run" / "model.safetensors", "np") as file:
        assert f"{sum(file.get_tensor(name).size for name in file.keys()):,} parameters" in card.text  # noqa: SIM118


@pytest.mark.parametrize(
    ("sizes", "over", "few"),
    [
        ({"num_examples": 900}, "bootstrap intervals over images; chance", False),
        ({"num_examples": 13}, "bootstrap intervals over images, of which there are too few", True),
        ({"num_examples": 900, "num_groups": 60}, "over the 60 groups that the images fall into; chance", False),
        ({"num_examples": 900, "num_groups": 12}, "over the 12 groups that the images fall into, of which", True),
    ],
)
def test_a_card_says_what_intervals_are_over_and_whether_that_is_little(tmp_path, tiny_teacher, sizes, over, few):
    shutil.copytree(tiny_teacher, tmp_path / "run")
    metrics = {"split": "test", "truth": "labels", "map_macro": 0.3, "prior/map_macro": 0.2, "chance/map_macro": 0.25,
               "map_macro_low": 0.28, "map_macro_high": 0.33}  # fmt: skip
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics | sizes))
    arguments = {"kind": "teacher", "dataset": "me/pairs", "model_name_or_path": "me/body"}
    (tmp_path / "run" / "run_arguments.json").write_text(json.dumps(arguments))
    text = " ".join(model_card(tmp_path / "run", "me/model").text.split())
    assert over in text and ("too few for intervals to be taken at their word" in text) == few


def test_public_names(tmp_path, monkeypatch):
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "secret-of-mine")
    names = PublicNames({str(tmp_path / "runs" / "teacher"): "me/teacher"}, paths=["/with blanks/x"])
    assert names.hub_id("runs/teacher") == names.hub_id(f"{tmp_path}/runs/../runs/teacher/") == "me/teacher"
    assert names.hub_id("runs") is None and names.hub_id("./other") is None and names.hub_id(None) is None
    assert names.hub_id("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    content = {
        "teacher": "runs/teacher", "dataset": "/data/my pairs", "model_name_or_path": "C:\\models\\body",
        "how": "copied from /with blanks/x, see /var/lib/y.json and https://a.b/c/d", "train_split": "runs",
        "hub_token": "hf_" + "x" * 34, "note": "token secret-of-mine", "share": 0.5, "list": ["/a/b", "and/or", "/"],
    }  # fmt: skip
    assert names.clean(content) == {
        "teacher": "me/teacher", "dataset": "my pairs", "model_name_or_path": "body",
        "how": "copied from x, see y.json and https://a.b/c/d", "train_split": "runs",
        "hub_token": "<HF_TOKEN>", "note": "token <HF_TOKEN>", "share": 0.5, "list": ["b", "and/or", "/"],
    }  # fmt: skip


@pytest.mark.parametrize(("strategy", "base"), [("anb", ["me/student"]), ("scratch", None), ("random", None)])
def test_the_base_of_a_fine_tuned_model_is_what_gave_it_weights(tmp_path, tiny_student, strategy, base):
    shutil.copytree(tiny_student, tmp_path / "run")
    arguments = {"kind": "finetuned", "dataset": "me/pairs", "student": "me/student", "strategy": strategy}
    metrics = {"split": "test", "truth": "labels", "num_examples": 7, "lrap": 0.5, "prior/lrap": 0.3}
    for name, content in (("metrics", metrics), ("run_arguments", arguments)):
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(content))
    card = model_card(tmp_path / "run", "me/model")
    assert card.data.base_model == base and card.data.datasets == ["me/pairs"]
    assert ("starts from the student [me/student](" in card.text) == (base is not None)


@pytest.mark.parametrize("truth", ["labels", "emotions", None])
def test_a_simulated_crowd_is_not_called_people(tmp_path, tiny_student, truth):
    """The built-in corpus knows its crowd's probabilities; they bound nothing where a model's labels are the truth."""
    shutil.copytree(tiny_student, tmp_path / "run")
    metrics = {"split": "test", "truth": truth or "labels", "num_examples": 1234, "lrap": 0.5, "prior/lrap": 0.3}
    metrics |= {"ceiling/lrap": 0.9} if truth else {}
    arguments = {"kind": "student", "dataset": "/x/table", "max_steps": -1, "word_embeddings": "me/teacher"}
    for name, content in (("metrics", metrics), ("run_arguments", arguments)):
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(content))
    text = model_card(tmp_path / "run", "me/model").text
    assert ("drawn scenes, generated captions and a simulated crowd" in text) == (truth is not None)
    assert ("the simulated crowd's labels" in text) == (truth == "labels") == ("| 0.900 |" in text)
    assert ("against human labels" in text) == (truth is None) and "1,234 images" in text
    assert ("not how well it follows people" in text) == (truth == "emotions") == ("of another model" in text)
    assert "A student (word embeddings, a GRU and a few convolutions; " in text and "max_steps" not in text
    assert "Names without an owner are folders" in text


def test_a_table_of_drawn_scenes_says_so(tmp_path):
    save_table(load_scenes(num_target=30, num_source=5), tmp_path / "scenes")
    card = dataset_card(tmp_path / "scenes", "me/scenes")
    assert card.data.license == "apache-2.0" and "and a simulated crowd" in card.text
    assert "- `bayes_probabilities`: list of 29 float32; what the simulated crowd answers" in card.text
