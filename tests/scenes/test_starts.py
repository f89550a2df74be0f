"""What the quickstart's captioner starts from."""

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from emocap.data.schema import NUM_REGIONS, socratis_labels
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.scenes.body import make_language_model
from tests.conftest import make_tokenizer


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("starts")
    make_tokenizer().save_pretrained(folder / "body")
    make_language_model(folder / "body", folder / "lm")
    return str(folder / "lm")


def test_a_language_model_is_a_configuration_with_the_words_of_the_body(language_model):
    config, tokenizer = AutoConfig.from_pretrained(language_model), AutoTokenizer.from_pretrained(language_model)
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab() and config.vocab_size == len(tokenizer)
    assert config.eos_token_id == tokenizer.sep_token_id and config.pad_token_id == tokenizer.pad_token_id
    assert config.max_position_embeddings >= 2 + NUM_REGIONS + 32


def test_sums_over_the_emotions_of_a_new_captioner_are_about_as_large_as_1(language_model):
    torch.manual_seed(0)
    processor = EmocapCaptionerProcessor(AutoTokenizer.from_pretrained(language_model), emotions=socratis_labels())
    model = EmocapCaptionerForConditionalGeneration.from_language_model(
        language_model, processor, random_weights=True, visual_embedding_dim=64, soft_hidden_size=128
    )
    wishes = model.wish_encoder
    for embedding in (wishes.directions, wishes.shown):
        assert embedding.weight.std().item() == pytest.approx(29**-0.5, rel=0.1)
    assert (torch.randn(500, 29) @ wishes.directions.weight).std().item() == pytest.approx(1, rel=0.15)
    assert model.region_projection.weight.std().item() == pytest.approx(0.06, rel=0.1)
    assert model.language_model.transformer.wte.weight.std().item() == pytest.approx(0.08, rel=0.1)
