"""Cards of data sets, from the table and the report beside it."""

from huggingface_hub import DatasetCard

from emocap.cards import dataset_card
from emocap.data.storage import load_table, save_table
from emocap.labelling import label_tables


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
        assert f"| {name} | {chosen.count(name)} |" in card.text
    assert "a model's guess" in card.text and "labels an image: 2; images a label: 9; threshold: none" in card.text
    assert 'load_dataset("me/labelled")' in card.text
    for column in labelled["train"].column_names:
        assert f"- `{column}`: " in card.text
    assert "{{" not in card.content and "{%" not in card.content


def test_the_card_of_a_table_without_a_report(tmp_path, tiny_table):
    save_table(tiny_table, tmp_path / "table")
    assert list(load_table(tmp_path / "table")) == ["train", "validation", "test"]
    card = dataset_card(tmp_path / "table", "table")
    assert "| train | 60 |" in card.text and "guess" not in card.text and "| happy |" not in card.text
