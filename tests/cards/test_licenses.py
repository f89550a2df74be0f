"""The licence of a card is that of its data: kept by every step, read from the Hub, or none where nobody knows it."""

import json
import shutil

import pytest
from datasets import DatasetDict
from huggingface_hub import DatasetCard

from emocap.cards.components import extractor_card, metric_card
from emocap.cards.datasets import dataset_card
from emocap.cards.models import model_card
from emocap.cli import main
from emocap.data import licenses as licenses_module
from emocap.data.coco import build_coco
from emocap.data.licenses import card_license, license_fields, license_note, license_of, set_license
from emocap.data.oasis import build_oasis
from emocap.data.socratis import build_socratis
from emocap.data.storage import load_table, save_table
from emocap.models import EmocapRegionConfig, EmocapRegionExtractor
from emocap.scenes.corpus import load_scenes

QUICK = ["--use_cpu", "--disable_tqdm", "true", "--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no",
         "--load_best_model_at_end", "false"]  # fmt: skip


def test_each_source_says_its_own(tmp_path):
    lines = [f"p{row}.jpg,a caption,['happy']" for row in range(60)]
    (tmp_path / "socratis.csv").write_text("\n".join(["image_name,caption,emotions", *lines]))
    images = [{"id": 1, "file_name": "1.jpg", "coco_url": "http://h/1.jpg", "license": 4}]
    content = {"licenses": [{"id": 4, "name": "Attribution License"}], "images": images,
               "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}  # fmt: skip
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    norms = "valence_mean,valence_sd,arousal_mean,arousal_sd"
    lines = [
        f"{name}.jpg,{name},x,a dog,5,1,4,1" for name in (chr(97 + row // 9) * (1 + row % 9) for row in range(90))
    ]
    (tmp_path / "images").mkdir()
    (tmp_path / "metadata.csv").write_text("\n".join([f"file_name,theme,category,caption,{norms}", *lines]))
    for tables, license in (
        (build_oasis(tmp_path)[0], "oasis-free-reuse"),
        (build_socratis(tmp_path / "socratis.csv", min_count=1)[0], "socratis-research-only"),
        (build_coco(tmp_path, splits=["train2017"])[0], "cc-by-4.0"),
        (load_scenes(num_target=30, num_source=5), "apache-2.0"),
    ):
        save_table(tables, tmp_path / license)
        assert license_of(load_table(tmp_path / license).values()) == [license]


@pytest.fixture
def research_table(tmp_path, tiny_table) -> str:
    save_table(set_license(tiny_table, "socratis-research-only"), tmp_path / "table")
    return str(tmp_path / "table")


def test_a_licence_passes_through_every_step_to_the_cards(tmp_path, research_table, tiny_body, tiny_student):
    main(["train-teacher", "--dataset", research_table, "--model_name_or_path", tiny_body, *QUICK, "--output_dir",
          str(tmp_path / "teacher")])  # fmt: skip
    main(["label", research_table, "--teacher", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "labelled")])
    main(["train-student", "--dataset", str(tmp_path / "labelled"), "--model_name_or_path", tiny_student, *QUICK,
          "--train_fraction", "0.5", "--output_dir", str(tmp_path / "student")])  # fmt: skip
    cards = [model_card(tmp_path / name, "me/model") for name in ("teacher", "student")]
    for card in [*cards, dataset_card(tmp_path / "labelled", "me/labelled")]:
        data = card.data.to_dict()
        assert (data["license"], data["license_name"]) == ("other", "socratis-research-only")
        assert "Socratis is its authors', for research." in card.text.replace("&#39;", "'")


def test_where_nobody_knows_no_licence_is_claimed(tmp_path, tiny_table_dir, tiny_student):
    flags = ["train-student", "--dataset", tiny_table_dir, "--model_name_or_path", tiny_student, *QUICK]
    main([*flags, "--output_dir", str(tmp_path / "run")])
    card = model_card(tmp_path / "run", "me/model")
    assert card.data.license is None and "license:" not in card.content
    assert model_card(tmp_path / "run", "me/model", license="mit").data.license == "mit"
    main([*flags, "--license", "cc0-1.0", "--output_dir", str(tmp_path / "told")])
    assert model_card(tmp_path / "told", "me/model").data.license == "cc0-1.0"
    assert dataset_card(tiny_table_dir, "me/t").data.license == "unknown"
    assert dataset_card(tiny_table_dir, "me/t", license="mit").data.license == "mit"


def test_rows_of_two_licences_and_of_an_unknown_one(tmp_path, labelled_table, tiny_table, tiny_student):
    tables = set_license(load_table(labelled_table), "cc-by-4.0")
    save_table(tables, tmp_path / "source")
    for name, license, expected in (
        ("other", "socratis-research-only", {"license": "other", "license_name": "several"}),
        ("same", "cc-by-4.0", {"license": "cc-by-4.0"}),
        ("unknown", None, {}),
    ):
        save_table(set_license(DatasetDict(tiny_table), license), tmp_path / name)
        main(["train-student", "--dataset", str(tmp_path / "source"), "--mix_dataset", str(tmp_path / name), *QUICK,
              "--model_name_or_path", tiny_student, "--output_dir", str(tmp_path / f"run {name}")])  # fmt: skip
        card = model_card(tmp_path / f"run {name}", "me/model")
        found = {key: value for key, value in card.data.to_dict().items() if key.startswith("license")}
        assert found == expected
        assert ("The data come from several sources: cc-by-4.0. Socratis" in card.text) == (name == "other")


def test_fields_and_notes():
    assert license_fields(None) == license_fields([]) == {} and license_note(None) == ""
    assert license_fields(["mit"]) == {"license": "mit"} and license_note(["mit"]) == ""
    assert license_note(["oasis-free-reuse"]) == "OASIS (Kurdi, Lozano and Banaji 2017) may be reused freely."


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: other\nlicense_name: socratis-research-only", "socratis-research-only"),
        ("license: cc-by-4.0", "cc-by-4.0"),
        ("license: unknown", None),
        ("license: other", None),
        ("language: en", None),
    ],
)
def test_the_licence_of_a_published_table(monkeypatch, front, expected):
    card = DatasetCard(f"---\n{front}\n---\n# title\n")
    monkeypatch.setattr(licenses_module.DatasetCard, "load", lambda repo_id, **options: card)
    assert card_license("me/table") == expected


def test_a_card_that_cannot_be_read_is_said(monkeypatch, caplog):
    def fail(repo_id: str, **options):
        raise ValueError("no YAML")

    monkeypatch.setattr(licenses_module.DatasetCard, "load", fail)
    assert card_license("me/table") is None
    assert "The licence of 'me/table' is not known: its card cannot be read (ValueError)." in caplog.text


def test_an_extractor_names_the_licence_that_it_was_given_and_the_metrics_their_own(tmp_path):
    config = EmocapRegionConfig(backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32)
    EmocapRegionExtractor(config).save_pretrained(tmp_path / "extractor")
    card = extractor_card(tmp_path / "extractor", "me/extractor")
    assert card.data.license is None and "license:" not in card.content
    assert (
        extractor_card(tmp_path / "extractor", "me/extractor", license="bsd-3-clause").data.license == "bsd-3-clause"
    )
    assert metric_card("me/m").data.license == "apache-2.0" and metric_card("me/m", "mit").data.license == "mit"


def test_an_older_run_without_a_record_claims_nothing(tmp_path, tiny_student):
    shutil.copytree(tiny_student, tmp_path / "run")
    metrics = {"split": "test", "truth": "labels", "num_examples": 7, "lrap": 0.5, "prior/lrap": 0.3}
    arguments = {"kind": "student", "dataset": "me/pairs", "word_embeddings": "me/bert"}
    for name, content in (("metrics", metrics), ("run_arguments", arguments)):
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(content))
    assert "license:" not in model_card(tmp_path / "run", "me/model").content
