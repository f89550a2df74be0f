"""Raw data from the Hub: COCO captions with the columns of `phiyodr/coco2017`, OASIS in its own layout, own pairs."""

import uuid

import datasets
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi
from PIL import Image

from emocap import load_pairs
from emocap.cli import main
from emocap.data.storage import load_table


def test_coco_captions_from_a_hub_id(tmp_path):
    repo_id = f"{HfApi().whoami()['name']}/coco-{uuid.uuid4().hex[:8]}"
    ids = {"train": range(20, 32), "validation": range(5)}
    columns = {
        split: {
            "license": [1 + number % 8 for number in numbers],
            "file_name": [f"{split}2017/{number:012d}.jpg" for number in numbers],
            "coco_url": [f"http://images.cocodataset.org/{number}" for number in numbers],
            "height": [480] * len(numbers),
            "width": [640] * len(numbers),
            "date_captured": ["2013-11-14 17:02:52"] * len(numbers),
            "flickr_url": [""] * len(numbers),
            "image_id": list(numbers),
            "ids": [[5 * number + k for k in range(5)] for number in numbers],
            "captions": [[f"caption {k} of {number}" for k in range(5)] for number in numbers],
        }
        for split, numbers in ids.items()
    }
    DatasetDict({split: Dataset.from_dict(own) for split, own in columns.items()}).push_to_hub(repo_id)
    main(["data", "coco", repo_id, "--split", "train2017", "val2017", "--output_dir", str(tmp_path / "coco")])
    table = load_table(tmp_path / "coco")
    assert {name: len(split) for name, split in table.items()} == {"train": 12, "validation": 5}
    row = table["validation"][3]
    assert row["image_id"] == "000000000003.jpg" and row["image"] is None
    assert row["captions"] == [f"caption {k} of 3" for k in range(5)]


def test_oasis_from_a_hub_id(tmp_path, capsys):
    repo_id, folder = f"{HfApi().whoami()['name']}/oasis-{uuid.uuid4().hex[:8]}", tmp_path / "oasis"
    (folder / "images").mkdir(parents=True)
    lines = ["file_name,theme,category,caption,valence_mean,valence_sd,arousal_mean,arousal_sd"]
    for number in range(30):
        lines.append(f"{number}.jpg,theme {'x' * number},Object,caption {number},{1 + number / 5},1.0,4.0,1.0")
        Image.new("RGB", (20, 16), "red").save(folder / "images" / f"{number}.jpg")
    (folder / "metadata.csv").write_text("\n".join(lines))
    with pytest.raises(SystemExit):
        main(["data", "oasis", repo_id, "--output_dir", str(tmp_path / "never")])
    assert f"'{repo_id}' is neither a folder nor a dataset on the Hub" in capsys.readouterr().err
    HfApi().create_repo(repo_id, repo_type="dataset", private=True)
    HfApi().upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder)
    for name, source in (("hub", repo_id), ("local", str(folder))):
        main(["data", "oasis", source, "--output_dir", str(tmp_path / name)])
    found, expected = (load_table(tmp_path / name) for name in ("hub", "local"))
    for split in expected:
        assert found[split].to_dict() == expected[split].to_dict(), "photos and all"


def test_own_pairs_from_a_hub_id(tmp_path):
    folder, user = tmp_path / "own", HfApi().whoami()["name"]
    lines = ["file_name,text,label"]
    for number in range(20):
        path = folder / f"part{number % 2}" / f"{number // 2}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 16), "red").save(path)
        lines.append(f"part{number % 2}/{number // 2}.jpg,caption {number},{'joy' if number % 3 else 'fear'}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    expected = load_pairs(folder)
    names = [f"{user}/{form}-{uuid.uuid4().hex[:8]}" for form in ("folder", "parquet")]
    HfApi().create_repo(names[0], repo_type="dataset")
    HfApi().upload_folder(repo_id=names[0], repo_type="dataset", folder_path=folder)
    rows = [{"photo": str(folder / name), "id": name, "text": text, "label": label}
            for name, text, label in (line.split(",") for line in lines[1:])]  # fmt: skip
    Dataset.from_list(rows).cast_column("photo", datasets.Image()).push_to_hub(names[1], "small")
    for found in (load_pairs(names[0]), load_pairs(names[1], config="small", id_column="id")):
        for split, part in expected.items():
            for column in ("image_id", "captions", "labels", "emotions"):
                assert found[split][column][:] == part[column][:], column
            assert [own.size for own in found[split]["image"][:]] == [own.size for own in part["image"][:]]
