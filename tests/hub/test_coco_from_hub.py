"""COCO captions from a Hub data set with the columns of `phiyodr/coco2017`."""

import os
import uuid

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi

from emocap.cli import main
from emocap.data.storage import load_table

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(
        not os.environ.get("HF_ENDPOINT") or not os.environ.get("HF_TOKEN"),
        reason="no Hub to write to: set HF_ENDPOINT and HF_TOKEN before pytest starts",
    ),
]


def test_a_hub_id_is_taken_where_a_folder_is(tmp_path):
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
