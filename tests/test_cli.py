"""The command line: bad input ends with one sentence before any model is loaded, and help explains everything."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import PreTrainedModel

from emocap import BottomUpConfig, export
from emocap.cli import command_parser, main
from emocap.commands import COMMANDS
from emocap.data.schema import pair_features


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs a command that has to end with exit status 2 and one message, which it returns; loading a model fails."""

    def no_loading(*args, **kwargs):
        pytest.fail("a model was loaded before the input was checked")

    def run(*argv: object) -> str:
        monkeypatch.setattr(PreTrainedModel, "from_pretrained", no_loading)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(part) for part in argv])
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert "Traceback" not in error
        messages = [line for line in error.splitlines() if line.startswith("emocap: error: ")]
        assert len(messages) == 1, error
        assert not (tmp_path / "out").exists(), "nothing is written"
        return messages[0]

    return run


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def write_csv(path: Path, rows: int = 60, emotions: str = "['happy', 'sad']") -> Path:
    lines = [f'{number}.jpg,a caption,"{emotions}"' for number in range(rows)]
    path.write_text("\n".join(["image_name,caption,emotions", *lines]))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not UTF-8 text.*expected Socratis' raw JSON"),
        (b"some words\nand more", r"lacks the column\(s\) image_name, caption, emotions. Found: some words"),
        (b'[{"a": 1}]', "holds a JSON list; expected Socratis' raw JSON"),
        (b'{"a": ', "starts like JSON but cannot be read"),
        (b"", "Found: nothing"),
        (b"image_name,caption\na.jpg,words\n", r"lacks the column\(s\) emotions. Found: image_name, caption"),
        (b"image_name,caption,emotions\na.jpg,words,happy and sad\n", "line 2: the emotions cell is 'happy and sad'"),
        (b"image_name,caption,emotions\na.jpg,words,[]\n", "No emotion matches min_count = 1"),
        (b"image_name,caption,emotions\n", "has no row below its first line"),
    ],
)
def test_files_that_are_no_socratis(refused, tmp_path, out, content, message):
    (tmp_path / "source").write_bytes(content)
    assert re.search(message, refused("data", "socratis", tmp_path / "source", "--output_dir", out))


DEEP = "[" * 100_000


def test_files_nested_too_deeply(refused, tmp_path, out, tiny_table_dir, tiny_student, tiny_body):
    deep, source = tmp_path / "deep.json", write_csv(tmp_path / "a.csv")
    deep.write_text('{"a": ' + DEEP)
    run = ["--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, "--output_dir", out]
    annotations = tmp_path / "coco" / "annotations"
    annotations.mkdir(parents=True)
    shutil.copy(deep, annotations / "captions_train2017.json")
    (tmp_path / "coco" / "train2017").mkdir()
    (tmp_path / "deep.yaml").write_text("learning_rate: " + DEEP)
    shutil.copytree(tiny_student, tmp_path / "student")
    shutil.copy(deep, tmp_path / "student" / "config.json")
    (tmp_path / "run").mkdir()
    shutil.copy(deep, tmp_path / "run" / "metrics.json")
    for command in (
        ["data", "socratis", deep, "--output_dir", out],
        ["data", "socratis", source, "--output_dir", out, "--labels", deep],
        ["data", "coco", tmp_path / "coco", "--output_dir", out],
        ["train-teacher", deep, *run],
        ["train-teacher", tmp_path / "deep.yaml", *run],
        ["predict", tmp_path / "student", "--caption", "rain"],
        ["report", f"student={tmp_path / 'run'}"],
    ):
        assert "nested too deeply" in refused(*command), command


@pytest.mark.parametrize(
    "content",
    ["learning_rate: !!python/object/apply:os.system ['true']", "learning_rate: [1, 2", "a: *b", "a: 1\n\tb: 2"],
)
def test_a_run_file_that_is_no_plain_yaml(refused, tmp_path, out, content):
    (tmp_path / "run.yaml").write_text(content)
    message = refused("train-teacher", tmp_path / "run.yaml", "--output_dir", out)
    assert "run.yaml' cannot be read: " in message and "expected names and plain values" in message
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="config.yaml' cannot be read: .*expected plain YAML"):
        BottomUpConfig.from_pretrained(tmp_path / "detector")


def test_extras_that_are_not_installed(refused, monkeypatch, out, tiny_table_dir, tiny_student, tiny_body):
    for package in ("onnx", "onnxscript", "onnxruntime", "sklearn"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert "pip install 'emocap[export]'" in refused("export", tiny_student, "--output", out / "student.onnx")
    needed = 'pip install "emocap[controls]"'
    assert needed in refused("evaluate", tiny_student, "--dataset", tiny_table_dir, "--controls")
    run = ["--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, "--output_dir", out]
    assert needed in refused("cross-validate", *run)


def test_socratis_labels_that_do_not_fit(refused, tmp_path, out):
    source, labels = write_csv(tmp_path / "a.csv"), tmp_path / "labels.json"
    command = ["data", "socratis", source, "--output_dir", out, "--labels", labels]
    assert f"There is no file '{labels}'" in refused(*command)
    labels.write_text('["happy", "awe"]')
    assert "names 1 emotion(s) that the given labels lack: sad" in refused(*command)
    labels.write_text('["happy", "happy"]')
    assert "expected a list of distinct emotions" in refused(*command)


def test_too_few_rows_for_three_splits(refused, tmp_path, out):
    source = write_csv(tmp_path / "a.csv", rows=2)
    message = refused("data", "socratis", source, "--output_dir", out)
    assert re.search(r"The 2 row\(s\) leave the split\(s\) .*(train|validation|test).* empty", message)


def test_missing_sources_are_named(refused, tmp_path, out):
    gone = tmp_path / "gone"
    for kind in ("socratis", "coco", "oasis"):
        assert str(gone) in refused("data", kind, gone, "--output_dir", out)
    source = write_csv(tmp_path / "a.csv")
    assert str(gone) in refused("data", "socratis", source, "--output_dir", out, "--images", gone)


def test_coco_without_annotations(refused, tmp_path, out):
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    message = refused("data", "coco", tmp_path / "coco", "--output_dir", out)
    assert str(tmp_path / "coco" / "annotations" / "captions_train2017.json") in message
    assert "expected COCO's own layout" in message


def test_an_output_folder_with_other_things_is_refused(refused, tmp_path, tiny_table_dir, tiny_teacher):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    source = write_csv(tmp_path / "a.csv")
    for command in (
        ["data", "socratis", source],
        ["data", "scenes"],
        ["regions", tiny_table_dir, "--extractor", "scenes"],
        ["label", tiny_table_dir, "--teacher", tiny_teacher],
    ):
        assert "is not a table of pairs; give an empty or a new folder" in refused(*command, "--output_dir", folder)
    assert (folder / "notes.txt").read_text() == "mine"


def commands_that_read(dataset, teacher, student, body, out) -> dict[str, list]:
    return {
        "regions": ["regions", dataset, "--extractor", "scenes", "--output_dir", out],
        "label": ["label", dataset, "--teacher", teacher, "--output_dir", out],
        "evaluate": ["evaluate", student, "--dataset", dataset],
        "train-teacher": ["train-teacher", "--dataset", dataset, "--model_name_or_path", body, "--output_dir", out],
        "train-student": ["train-student", "--dataset", dataset, "--word_embeddings", body, "--output_dir", out],
        "finetune": ["finetune", "--dataset", dataset, "--student", student, "--output_dir", out],
    }


@pytest.mark.parametrize("name", ["regions", "label", "evaluate", "train-teacher", "train-student", "finetune"])
def test_a_missing_data_set_folder(refused, tmp_path, out, tiny_teacher, tiny_student, tiny_body, name):
    gone = tmp_path / "gone"
    message = refused(*commands_that_read(gone, tiny_teacher, tiny_student, tiny_body, out)[name])
    assert f"There is no data set folder at '{gone}'" in message and "owner/name" in message


@pytest.mark.parametrize("name", ["evaluate", "train-teacher", "train-student", "finetune"])
def test_a_table_without_labels(refused, tmp_path, out, tiny_table, tiny_teacher, tiny_student, tiny_body, name):
    keep = ["image_id", "image", "captions"]
    tables = DatasetDict({split: rows.select_columns(keep) for split, rows in tiny_table.items()})
    tables.save_to_disk(str(tmp_path / "bare"))
    message = refused(*commands_that_read(tmp_path / "bare", tiny_teacher, tiny_student, tiny_body, out)[name])
    assert "emotions" in message and "emocap label" in message


@pytest.mark.parametrize("split", ["train", "test", "validation"])
@pytest.mark.parametrize("name", ["evaluate", "train-teacher", "train-student", "finetune"])
def test_an_empty_split(refused, tmp_path, out, tiny_table, tiny_teacher, tiny_student, tiny_body, name, split):
    DatasetDict({**tiny_table, split: tiny_table[split].select([])}).save_to_disk(str(tmp_path / "table"))
    message = refused(*commands_that_read(tmp_path / "table", tiny_teacher, tiny_student, tiny_body, out)[name])
    assert re.search(rf"The {split} split .*is empty", message)


def test_a_split_that_is_not_there(refused, out, tiny_table_dir, tiny_teacher, tiny_student, tiny_body):
    commands = commands_that_read(tiny_table_dir, tiny_teacher, tiny_student, tiny_body, out)
    assert "no split 'val' (splits: train, validation, test)" in refused(*commands["label"], "--split", "val")
    assert "no split 'val' (splits: train, validation, test)" in refused(*commands["evaluate"], "--split", "val")
    for name in ("train-teacher", "train-student", "finetune"):
        assert "no split 'val'" in refused(*commands[name], "--train_split", "val")


def test_an_unlabelled_split(refused, tmp_path, out, tiny_table, tiny_teacher, tiny_student, tiny_body):
    without = {column: [None] * len(tiny_table["validation"]) for column in ("labels", "emotions")}
    rows = Dataset.from_dict({**tiny_table["validation"].to_dict(), **without}, tiny_table["validation"].features)
    DatasetDict({**tiny_table, "validation": rows}).save_to_disk(str(tmp_path / "table"))
    commands = commands_that_read(tmp_path / "table", tiny_teacher, tiny_student, tiny_body, out)
    for name in ("train-teacher", "train-student", "finetune"):
        assert "rows have no 'emotions': they carry no labels" in refused(*commands[name])
    assert "rows have no 'labels'" in refused(*commands["evaluate"], "--split", "validation")


def test_a_label_column_that_is_not_there(refused, out, tiny_table_dir, tiny_teacher, tiny_student, tiny_body):
    commands = commands_that_read(tiny_table_dir, tiny_teacher, tiny_student, tiny_body, out)
    for name in ("evaluate", "train-teacher", "train-student", "finetune"):
        assert "no column 'scores' for labels" in refused(*commands[name], "--label_column", "scores")
    assert "--selected_only needs the column 'selected_for'" in refused(*commands["train-student"], "--selected_only")


def with_labels(folder: str, names: list[str], target: Path) -> Path:
    """A copy of a checkpoint whose emotions are called otherwise."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("name", ["evaluate", "train-student", "finetune"])  # a teacher's body gets a new head
def test_a_checkpoint_of_other_labels(refused, tmp_path, out, tiny_table_dir, tiny_teacher, tiny_student, name):
    for kind, labels, message in (
        (
            "order",
            ["sad", "happy", "excited", "curious", "angry"],
            "another order (index 0 is 'sad' in the checkpoint",
        ),
        ("others", ["happy", "sad", "excited", "curious", "awe"], "only in the data set ['angry']"),
    ):
        student = with_labels(tiny_student, labels, tmp_path / f"student {kind}")
        teacher = with_labels(tiny_teacher, labels, tmp_path / f"teacher {kind}")
        commands = commands_that_read(tiny_table_dir, teacher, student, teacher, out)
        if name == "train-student":
            commands[name] += ["--model_name_or_path", student]
        assert message in refused(*commands[name])


@pytest.fixture
def wide_table(tmp_path, tiny_table) -> Path:
    """The tiny table with 20-d region features."""
    tables = DatasetDict()
    for split, rows in tiny_table.items():
        features = rows.features.copy()
        features["region_features"] = type(features["region_features"])(
            features["region_features"].feature, length=36 * 20
        )
        columns = {**rows.to_dict(), "region_features": [[0.0] * 720] * len(rows)}
        tables[split] = Dataset.from_dict(columns, features)
    tables.save_to_disk(str(tmp_path / "wide"))
    return tmp_path / "wide"


@pytest.mark.parametrize("name", ["label", "evaluate", "train-teacher", "train-student", "finetune"])
def test_features_of_another_width(refused, out, wide_table, tiny_teacher, tiny_body, name):
    commands = commands_that_read(wide_table, tiny_teacher, tiny_teacher, tiny_body, out)
    if name == "train-student":
        commands[name] += ["--architecture", "visualbert", "--model_name_or_path", tiny_body]
    message = refused(*commands[name])
    assert "20-d" in message and "16-d" in message and "--reinit_visual_projection" in message


@pytest.mark.parametrize("name", ["label", "evaluate", "train-teacher", "train-student", "finetune"])
def test_a_checkpoint_that_is_not_there(refused, tmp_path, out, tiny_table_dir, name):
    gone = tmp_path / "gone"
    commands = commands_that_read(tiny_table_dir, gone, gone, gone, out)
    assert str(gone) in refused(*commands[name])


@pytest.mark.parametrize("name", ["label", "evaluate", "finetune"])
def test_a_checkpoint_of_another_family(refused, out, tiny_table_dir, tiny_bert, name):
    commands = commands_that_read(tiny_table_dir, tiny_bert, tiny_bert, tiny_bert, out)
    assert "is a 'bert' checkpoint; expected an emocap teacher or student" in refused(*commands[name])


def test_predict_needs_something_to_look_at(refused, tmp_path, tiny_student):
    assert "Give --caption, --image or both" in refused("predict", tiny_student)
    assert "has no emotion 'envy'" in refused("predict", tiny_student, "--caption", "rain", "--explain", "envy")
    assert "end in .png, .pdf" in refused("predict", tiny_student, "--caption", "rain", "--figure", "a.txt")
    assert "--top_k is 0" in refused("predict", tiny_student, "--caption", "rain", "--top_k", "0")
    gone = tmp_path / "gone.jpg"
    assert f"There is no picture at '{gone}'" in refused("predict", tiny_student, "--image", gone)
    (tmp_path / "text.jpg").write_text("no photo")
    assert "text.jpg' cannot be read: not an image" in refused(
        "predict", tiny_student, "--image", tmp_path / "text.jpg"
    )


def test_counts_out_of_range(refused, out, tiny_table_dir, tiny_teacher):
    command = ["label", tiny_table_dir, "--teacher", tiny_teacher, "--output_dir", out]
    assert "--labels_per_image is 0; it must be 1 or more" in refused(*command, "--labels_per_image", 0)
    assert "images_per_label is -3" in refused(*command, "--images_per_label", -3)
    assert "fraction is 2.0" in refused("data", "coco", out, "--output_dir", out, "--fraction", 2)
    assert "num_labels is 40" in refused("data", "scenes", "--num_labels", 40, "--output_dir", out)


def test_features_to_import_that_are_not_there(refused, tmp_path, out, tiny_table_dir):
    gone = tmp_path / "gone.safetensors"
    assert str(gone) in refused("regions", tiny_table_dir, "--import", gone, "--output_dir", out)


def test_strategies_that_lack_a_model(refused, out, tiny_table_dir, tiny_teacher, tiny_student):
    command = ["finetune", "--dataset", tiny_table_dir, "--output_dir", out]
    assert "--strategy anb+ needs --student" in refused(*command, "--teacher", tiny_teacher)
    assert "--strategy bnb needs --teacher" in refused(*command, "--student", tiny_student, "--strategy", "bnb")
    assert "expected 'all' or a number" in refused(*command, "--student", tiny_student, "--num_layers", 99)
    command = ["train-student", "--dataset", tiny_table_dir, "--output_dir", out]
    assert "needs --word_embeddings" in refused(*command)
    assert "needs --model_name_or_path" in refused(*command, "--architecture", "visualbert")


def test_an_unknown_flag_is_refused_by_argparse(capsys, tiny_student, tiny_table_dir):
    for argv in (
        ["evaluate", tiny_student, "--dataset", tiny_table_dir, "--splits", "test"],
        ["train-student", "--dataset", tiny_table_dir, "--output_dir", "x", "--learnin_rate", "1"],
        ["evaluate", tiny_student],
        ["nothing"],
        [],
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2 and "error" in capsys.readouterr().err


def test_predict_prints_the_best_emotions(capsys, tmp_path, tiny_student):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    main(["predict", tiny_student, "--caption", "the dog", "--image", str(tmp_path / "red.png"), "--top_k", "3"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3 and rows == sorted(rows, key=lambda row: -row["score"])
    assert all(row["label"] in ("happy", "sad", "excited", "curious", "angry") for row in rows)


def test_predict_draws_what_it_prints(tmp_path, tiny_student):
    Image.new("RGB", (20, 16), "red").save(tmp_path / "red.png")
    main(["predict", tiny_student, "--caption", "the dog", "--image", str(tmp_path / "red.png"), "--top_k", "3",
          "--figure", str(tmp_path / "figure.png")])  # fmt: skip
    drawn = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB"))
    assert (drawn == [255, 0, 0]).all(-1).sum() > 5000, "the photo"
    assert (drawn == [0, 0x72, 0xB2]).all(-1).sum() > 1000, "the bars"


def test_predict_explains_what_it_prints(capsys, tmp_path, tiny_student):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    pair = ["--caption", "the dog", "--image", str(tmp_path / "red.png"), "--top_k", "2"]
    main(["predict", tiny_student, *pair, "--explain"])
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    explanation = first["explanation"]
    assert explanation["tokens"] == ["the", "dog"] and "explanation" not in second
    assert sum([*explanation["token_weights"], *explanation["box_weights"]]) == pytest.approx(
        explanation["logit"] - explanation["baseline_logit"], abs=2e-3
    )
    main(["predict", tiny_student, *pair, "--explain", "sad"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows if "explanation" in row] == ["sad"]


def test_data_socratis_and_publish_of_nothing(refused, tmp_path, capsys):
    main(["data", "socratis", str(write_csv(tmp_path / "a.csv")), "--output_dir", str(tmp_path / "table")])
    assert "images: 60" in capsys.readouterr().out
    features = pair_features(["happy", "sad"])
    assert DatasetDict.load_from_disk(str(tmp_path / "table"))["train"].features == features
    assert "is neither a finished run" in refused("publish", tmp_path, "--repo_id", "me/nothing")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_and_explains_every_option(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(f"usage: emocap {name} ")
    for action in command_parser(name)._actions:
        assert action.help and action.help.strip(), f"{action.option_strings or action.dest} has no help text"
        for option in action.option_strings or [action.metavar]:
            assert option in printed


def test_help_lists_every_command(capsys):
    printed = ""
    for words in ([], ["data"]):
        with pytest.raises(SystemExit) as stop:
            main([*words, "--help"])
        assert stop.value.code == 0
        printed += " ".join(capsys.readouterr().out.split())
    for name, command in COMMANDS.items():
        assert f"{name.split()[-1]} {command.__doc__}" in printed, name


def test_the_scripts_share_the_parsers():
    root = Path(__file__).parents[1]
    for name in ("train_teacher", "train_student", "finetune"):
        text = (root / f"{name}.py").read_text()
        assert f'main(["{name.replace("_", "-")}", *sys.argv[1:]])' in text and len(text.splitlines()) < 40
