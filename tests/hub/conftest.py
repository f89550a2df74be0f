"""A family of tiny models and tables, made by the commands, as a quickstart's folder is."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from emocap.cli import main
from emocap.models import EmocapRegionConfig, EmocapRegionExtractor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here writes to a Hub: the one that HF_ENDPOINT names, else the fake one of this session."""
    reason = f"no token for the Hub at {os.environ['HF_ENDPOINT']}: set HF_TOKEN before pytest starts"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.hub)
            item.add_marker(pytest.mark.skipif(not os.environ.get("HF_TOKEN"), reason=reason))


QUICK = ["--max_steps", "2", "--disable_tqdm", "true", "--use_cpu", "true", "--eval_strategy", "no",
         "--save_strategy", "no", "--load_best_model_at_end", "false"]  # fmt: skip


@pytest.fixture(scope="session")
def family(tmp_path_factory, tiny_table_dir, tiny_body) -> Path:
    """Folder with `extractor`, `teacher`, `labelled`, `student` and `anb+`."""
    folder = tmp_path_factory.mktemp("family")
    torch.manual_seed(4)
    EmocapRegionExtractor(
        EmocapRegionConfig(
            backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
        )
    ).eval().save_pretrained(folder / "extractor")
    main(["train-teacher", "--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, *QUICK,
          "--region_extractor", str(folder / "extractor"), "--output_dir", str(folder / "teacher")])  # fmt: skip
    main(["label", tiny_table_dir, "--teacher", str(folder / "teacher"), "--images_per_label", "9",
          "--output_dir", str(folder / "labelled")])  # fmt: skip
    main(["train-student", "--dataset", str(folder / "labelled"), "--word_embeddings", str(folder / "teacher"), *QUICK,
          "--cnn_channels", "8", "--image_size", "16", "--gru_hidden_size", "8", "--fc_hidden_size", "8",
          "--output_dir", str(folder / "student")])  # fmt: skip
    main(["finetune", "--dataset", tiny_table_dir, "--student", str(folder / "student"), "--strategy", "anb+", *QUICK,
          "--output_dir", str(folder / "anb+")])  # fmt: skip
    return folder


@pytest.fixture
def new_name() -> Callable[[str], str]:
    """Names of repositories that nobody has yet, of the account that is logged in."""
    account = HfApi().whoami()["name"]
    return lambda what: f"{account}/{what}-{uuid.uuid4().hex[:8]}"
