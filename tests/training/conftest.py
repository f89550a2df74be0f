"""Fixtures of the captioner's training."""

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Features, List, Value

from emocap.data.storage import load_table
from tests.conftest import EMOTIONS, WORDS
from tests.models.captioner import save_language_model

SCORES = List(List(Value("float32"), length=len(EMOTIONS)))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory, tiny_table_dir) -> str:
    """The tiny table with scores of each caption: high for the emotions whose words it has."""
    rng, tables = np.random.default_rng(0), DatasetDict()
    for name, table in load_table(tiny_table_dir).items():

        def score(row):
            own = [[any(word in caption for word in WORDS[name]) for name in EMOTIONS] for caption in row["captions"]]
            return {"caption_scores": [rng.uniform(0.05, 0.2, 5) + 0.7 * np.array(each) for each in own]}

        tables[name] = table.map(score, features=Features({**table.features, "caption_scores": SCORES}))
    folder = str(tmp_path_factory.mktemp("tables") / "captioned")
    tables.save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    return save_language_model(tmp_path_factory.mktemp("lm") / "llama", "llama", initializer_range=0.05)


@pytest.fixture
def job(captioned, language_model) -> list[str]:
    return [
        "train-captioner", "--dataset", captioned, "--model_name_or_path", language_model, "--use_cpu",
        "--disable_tqdm", "true", "--num_train_epochs", "2", "--soft_hidden_size", "16",
    ]  # fmt: skip
