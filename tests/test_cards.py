"""Cards of data sets, from the table and the report beside it."""

from datasets import DatasetDict
from huggingface_hub import DatasetCard
from transformers import AutoModel

from emocap.data.storage import load_table, save_table
from emocap.dataset_cards import dataset_card, sparkline
from emocap.labelling import label_tables
from emocap.models import EmocapProcessor


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
