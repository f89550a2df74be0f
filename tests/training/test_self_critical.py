"""The second stage of a captioner: what is rewarded, and that it learns from it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file

from emocap.cli import main
from emocap.data.captions import CaptionDataset
from emocap.data.storage import load_table
from emocap.evaluation.captioner import Captioner, write
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.training.self_critical import advantages, log_wished, reward_wishes
from tests.conftest import EMOTIONS, WORDS


def shares(caption: str) -> list[float]:
    """How much of a caption each emotion's words are."""
    words = caption.split()
    return [(0.05 + sum(word in WORDS[name] for word in words)) / (0.05 + len(words)) for name in EMOTIONS]


class Reader:
    """A teacher that counts words."""

    def prepare(self, table):
        return [table]

    def score(self, tables, batch_size):
        captions = [caption for own in tables[0]["captions"][:] for caption in own]
        return SimpleNamespace(probabilities=np.array([shares(caption) for caption in captions]))


def test_an_advantage_is_over_the_mean_of_the_others(rng):
    rewards = rng.normal(size=(5, 4))
    for picture, own in enumerate(advantages(rewards)):
        for sentence, gain in enumerate(own):
            others = [rewards[picture, other] for other in range(4) if other != sentence]
            assert gain == pytest.approx(rewards[picture, sentence] - np.mean(others))
    assert np.allclose(advantages(rewards).sum(1), 0)


def test_each_sentence_is_scored_beside_its_own_picture_for_its_own_wish(captioned, rng):
    table = load_table(captioned)["train"].select([3, 5, 8])
    texts = [" ".join(rng.choice(["the", *WORDS[name]], 4)) for name in rng.choice(EMOTIONS, 6)]
    wishes = rng.integers(5, size=3)
    expected = [[np.log(shares(texts[2 * row + one])[wishes[row]]) for one in range(2)] for row in range(3)]
    np.testing.assert_allclose(log_wished(Reader(), table, texts, wishes), expected)


def test_rewarded_sentences_raise_the_wish(job, captioned, tmp_path):
    main([*job, "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "8", "--head_learning_rate", "3e-3"])
    processor = EmocapCaptionerProcessor.from_pretrained(tmp_path / "run")
    model = EmocapCaptionerForConditionalGeneration.from_pretrained(tmp_path / "run")
    table = load_table(captioned)["train"]
    pairs = CaptionDataset(table, processor)
    captioner = Captioner(model, processor, pairs, 32)
    rows, wishes = np.repeat(np.arange(20), 5), [*EMOTIONS] * 20

    def wished() -> float:
        texts = write(captioner, rows, wishes, 1.0)
        return np.mean([shares(text)[EMOTIONS.index(name)] for text, name in zip(texts, wishes, strict=True)])

    before, frozen = wished(), model.language_model.get_input_embeddings().weight.requires_grad_(False).clone()
    options = {"learning_rate": 3e-3, "pictures_a_step": 16, "seed": 1}
    reward_wishes(captioner, pairs, table, Reader(), steps=60, **options)
    assert wished() > before + 0.1 and torch.equal(model.language_model.get_input_embeddings().weight, frozen)


def test_the_command_ends_with_what_was_rewarded(job, tiny_teacher, captioned, tmp_path, capsys):
    own = ["--self_critical_steps", "2", "--self_critical_learning_rate", "1e-2"]
    with pytest.raises(SystemExit):
        main([*job, "--output_dir", str(tmp_path / "none"), "--self_critical_teacher", tiny_teacher])
    assert "give --self_critical_steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*job, "--output_dir", str(tmp_path / "none"), *own])
    assert "name one with --self_critical_teacher" in capsys.readouterr().err and not (tmp_path / "none").exists()
    main([*job, "--output_dir", str(tmp_path / "plain")])
    for again in ("rewarded", "again"):
        main([*job, "--output_dir", str(tmp_path / again), *own, "--self_critical_teacher", tiny_teacher])
    plain, rewarded, repeated = (
        load_file(tmp_path / name / "model.safetensors") for name in ("plain", "rewarded", "again")
    )
    assert any(not torch.equal(plain[name], rewarded[name]) for name in plain)
    assert all(torch.equal(repeated[name], rewarded[name]) for name in plain)
    arguments = json.loads((tmp_path / "rewarded" / "run_arguments.json").read_text())
    assert arguments["self_critical_steps"] == 2
    text_only = load_table(captioned)
    text_only = DatasetDict({name: own.map(lambda row: {"num_regions": 0}) for name, own in text_only.items()})
    text_only.save_to_disk(tmp_path / "words")
    main([*job, "--dataset", str(tmp_path / "words"), "--output_dir", str(tmp_path / "blind"), *own,
          "--self_critical_teacher", tiny_teacher])  # fmt: skip
    assert (tmp_path / "blind" / "metrics.json").is_file()
