"""Fixtures shared by the whole suite."""

import os

from tests.fake_hub import hub_environment

os.environ.update(hub_environment())  # before anything reads it at import

import io
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizerFast, VisualBertConfig, VisualBertModel

from emocap.data.schema import pair_features, region_columns
from emocap.data.storage import load_table
from emocap.models import (
    EmocapProcessor,
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherForMultiLabelClassification,
)

torch.set_num_threads(1)  # several test processes share few cores

SEED = int(os.environ.get("EMOCAP_TEST_SEED", 0))
"""Of every random draw in the suite: another number draws other inputs."""


def pytest_addoption(parser) -> None:
    parser.addoption("--screenshots", help="folder for what the tests in a browser saw")


def pytest_report_header() -> str:
    return f"emocap: random inputs of EMOCAP_TEST_SEED={SEED}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failing test says which inputs it had."""
    report = yield
    if report.failed:
        report.sections.append(("Random inputs", f"EMOCAP_TEST_SEED={SEED} draws them again"))
    return report


@pytest.fixture(autouse=True)
def rng(request) -> np.random.Generator:
    """A test's own random numbers, of `SEED` and its name alone. Those of Python, NumPy and torch start there too."""
    generator = np.random.default_rng([SEED, zlib.crc32(request.node.nodeid.encode())])
    random.seed(int(generator.integers(2**32)))
    np.random.seed(int(generator.integers(2**32)))
    torch.manual_seed(int(generator.integers(2**32)))
    return generator


def fresh_rng() -> np.random.Generator:
    """Another generator at each call, of the running test's seed: for helpers that no fixture reaches."""
    return np.random.default_rng(np.random.randint(2**32, dtype=np.uint32))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real photos, captions and features; the test skips where it is absent."""
    folder = os.environ.get("EMOCAP_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data is not at hand: set EMOCAP_REAL_DATA to its folder")
    return Path(folder).resolve()


EMOTIONS = ["happy", "sad", "excited", "curious", "angry"]
WORDS = {
    "happy": ["laughter", "sunny", "picnic"],
    "sad": ["funeral", "rain", "alone"],
    "excited": ["party", "rocket", "goal"],
    "curious": ["riddle", "map", "box"],
    "angry": ["quarrel", "thief", "insult"],
}
FILLERS = ["a", "the", "dog", "child", "at", "with", "beside", "house", "street", "##s", "."]
NUM_REGIONS, REGION_DIM = 36, 16


def make_tokenizer() -> BertTokenizerFast:
    """A WordPiece tokenizer whose ids are BERT's where BERT fixes them: `[PAD]` is 0."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *(word for own in WORDS.values() for word in own)]
    return BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})


def tiny_bert_fields() -> dict[str, object]:
    return {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
    }


@pytest.fixture(scope="session")
def tiny_body(tmp_path_factory) -> str:
    """Folder of a tiny random VisualBERT body that reads 16-d regions, with its tokenizer."""
    folder = str(tmp_path_factory.mktemp("bodies") / "visual_bert")
    torch.manual_seed(0)
    VisualBertModel(VisualBertConfig(**tiny_bert_fields(), visual_embedding_dim=REGION_DIM)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    """Folder of a tiny random BERT of the same vocabulary, with its tokenizer."""
    folder = str(tmp_path_factory.mktemp("bodies") / "bert")
    torch.manual_seed(1)
    BertModel(BertConfig(**tiny_bert_fields())).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def tiny_rows(number: int, seed: int, name: str) -> dict[str, list]:
    """Columns of `number` rows: words, colours and region features follow the emotions, six annotators vote."""
    rng = np.random.default_rng(seed)
    votes = rng.binomial(6, rng.choice([0.02, 0.6], (number, len(EMOTIONS)), p=[0.7, 0.3]))
    votes[np.arange(number), rng.integers(0, len(EMOTIONS), number)] += 1
    directions = np.random.default_rng(99).normal(size=(len(EMOTIONS), REGION_DIM))
    features = (votes @ directions)[:, None] + rng.normal(size=(number, NUM_REGIONS, REGION_DIM))
    counts = rng.integers(2, NUM_REGIONS + 1, number)
    images, captions = [], []
    for row in range(number):
        named = [EMOTIONS[label] for label in np.flatnonzero(votes[row])]
        own = [
            " ".join(
                [*rng.choice(FILLERS[:9], rng.integers(1, 6)), *(rng.choice(WORDS[emotion]) for emotion in named)]
            )
            for _ in range(rng.integers(1, 4))
        ]
        shade = (20 + 30 * votes[row, :3]).clip(0, 255)
        pixels = (shade + rng.integers(0, 20, (14, 18, 3))).clip(0, 255).astype(np.uint8)
        without_photo, without_caption = row % 7 == 3, row % 11 == 5
        counts[row] *= not without_photo
        images.append(None if without_photo else {"bytes": jpeg(pixels), "path": None})
        captions.append([] if without_caption and not without_photo else own)
    features[np.arange(NUM_REGIONS) >= counts[:, None]] = 0
    return {
        "image_id": [f"{name}_{row:03d}.jpg" for row in range(number)],
        "image": images,
        "captions": captions,
        "labels": list((votes > 0).astype(np.float32)),
        "emotions": [np.argsort(-own, kind="stable")[: (own > 0).sum()].tolist() for own in votes],
        "votes": list(votes.astype(np.int32)),
        "num_annotators": [7] * number,
        "soft_labels": list((votes / 7).astype(np.float32)),
        "region_features": list(features.astype(np.float16).reshape(number, -1)),
        "region_boxes": list(rng.random((number, NUM_REGIONS * 4), dtype=np.float32)),
        "num_regions": counts.tolist(),
    }


def make_tiny_table() -> DatasetDict:
    features = Features({**pair_features(EMOTIONS, votes=True), **region_columns(REGION_DIM)})
    sizes = {"train": 60, "validation": 20, "test": 21}
    return DatasetDict(
        {
            name: Dataset.from_dict(tiny_rows(number, seed, name), features=features)
            for seed, (name, number) in enumerate(sizes.items())
        }
    )


@pytest.fixture(scope="session")
def tiny_table_dir(tmp_path_factory) -> str:
    """Folder of the tiny table: 60, 20 and 21 rows, 5 emotions, 16-d regions; some rows lack photo or caption."""
    folder = str(tmp_path_factory.mktemp("tables") / "tiny")
    make_tiny_table().save_to_disk(folder)
    return folder


@pytest.fixture
def tiny_table(tiny_table_dir) -> DatasetDict:
    return load_table(tiny_table_dir)


def emotion_fields() -> dict[str, dict]:
    return {"id2label": dict(enumerate(EMOTIONS)), "label2id": {name: i for i, name in enumerate(EMOTIONS)}}


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory, tiny_body) -> str:
    """Folder of a tiny random teacher of the tiny table's emotions, with its processor."""
    folder = str(tmp_path_factory.mktemp("models") / "teacher")
    torch.manual_seed(2)
    EmocapTeacherForMultiLabelClassification.from_body(tiny_body, **emotion_fields()).save_pretrained(folder)
    EmocapProcessor(make_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory) -> str:
    """Folder of a tiny random student of the tiny table's emotions (photos of 16 pixels), with its processor."""
    folder = str(tmp_path_factory.mktemp("models") / "student")
    torch.manual_seed(3)
    config = EmocapStudentConfig(
        vocab_size=len(make_tokenizer()),
        word_embedding_size=32,
        gru_hidden_size=16,
        cnn_channels=[8, 16],
        image_size=16,
        fc_hidden_size=24,
        **emotion_fields(),
    )
    EmocapStudentForMultiLabelClassification(config).save_pretrained(folder)
    EmocapProcessor(make_tokenizer(), image_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoders(tmp_path_factory) -> dict[str, str]:
    """A folder for each kind of tiny text encoder, with its tokenizer."""
    from tests.text_encoders import KINDS, save_encoder

    folder = tmp_path_factory.mktemp("encoders")
    for kind in KINDS:
        save_encoder(kind, str(folder / kind))
    return {kind: str(folder / kind) for kind in KINDS}


WITHOUT_EMOCAP = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "emocap":
            raise ModuleNotFoundError("No module named 'emocap'", name="emocap")

sys.meta_path.insert(0, NotInstalled())
try:
    import emocap
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("emocap is still there")
"""


@pytest.fixture
def run_without_emocap(tmp_path) -> Callable[[str, object], object]:
    """Runs code in a fresh interpreter that finds no emocap.

    It takes the code and a JSON value, which is its `sys.argv[1]`, and gives the JSON that the code prints after
    RESULT.
    """

    def run(code: str, argument: object) -> object:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_HOME": str(tmp_path / "hf_home"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_EMOCAP + code, json.dumps(argument)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rpartition("RESULT")[2])

    return run


@pytest.fixture(scope="session")
def labelled_table(tmp_path_factory, tiny_table_dir) -> str:
    """The tiny table as `emocap label` leaves one: soft and hard pseudo-labels, and what each row is selected for."""
    rng = np.random.default_rng(0)
    tables = DatasetDict()
    for name, table in load_table(tiny_table_dir).items():
        scores = rng.random((len(table), 5)).astype(np.float32)
        best = np.argsort(-scores, axis=1)[:, :2]
        selected = [[int(own[0])] if row % 3 else [] for row, own in enumerate(best)]
        emotions = table.features["emotions"]
        table = table.remove_columns("emotions").add_column("emotions", best.tolist())
        table = table.add_column("selected_for", selected).add_column("emotion_scores", list(scores))
        for column in ("emotions", "selected_for"):
            table = table.cast_column(column, emotions)
        tables[name] = table.cast_column("emotion_scores", table.features["labels"])
    folder = str(tmp_path_factory.mktemp("tables") / "labelled")
    tables.save_to_disk(folder)
    return folder
