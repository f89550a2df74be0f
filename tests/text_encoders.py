"""Tiny text encoders of several architectures, each with a tokenizer of its own, and teachers over them."""

import copy

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from emocap.models import EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification
from tests.conftest import FILLERS, REGION_DIM, WORDS, emotion_fields

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SENTENCES = [" ".join([*FILLERS[:9], *own]) for own in WORDS.values()] * 3
LAYERS = 3
FIELDS = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.2,  # attention far from uniform
}
ENCODERS: dict[str, PreTrainedConfig] = {
    "mpnet": MPNetConfig(**FIELDS),
    "roberta": RobertaConfig(**FIELDS, type_vocab_size=1),
    "deberta-v2": DebertaV2Config(
        **FIELDS, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], type_vocab_size=0, position_biased_input=False, conv_kernel_size=3,
        conv_act="gelu",
    ),
    "modernbert": ModernBertConfig(
        **FIELDS, global_attn_every_n_layers=2, local_attention=8, cls_token_id=0, sep_token_id=2
    ),
    "bert": BertConfig(**FIELDS),
}  # fmt: skip
TOKENIZERS = {
    "mpnet": "wordpiece",
    "roberta": "bpe",
    "deberta-v2": "unigram",
    "modernbert": "bpe",
    "bert": "wordpiece",
}
KINDS = list(ENCODERS)


def make_own_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one of three kinds, trained on the tiny table's words, which frames as RoBERTa's does."""
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=SPECIAL, unk_token="<unk>")
    else:
        words = [*SPECIAL, *FILLERS, *(word for own in WORDS.values() for word in own)]
        tokenizer = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if kind != "wordpiece":
        tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **names)


def save_encoder(kind: str, folder: str) -> None:
    """Random weights, of the kind's own seed, and a tokenizer."""
    torch.manual_seed(KINDS.index(kind))
    AutoModel.from_config(copy.deepcopy(ENCODERS[kind])).save_pretrained(folder)
    make_own_tokenizer(TOKENIZERS[kind]).save_pretrained(folder)


def make_teacher(folder: str, **fields) -> EmocapTeacherForMultiLabelClassification:
    """A teacher over an encoder's folder; a BERT's too stays what it is."""
    fields = {"visual_embedding_dim": REGION_DIM, **emotion_fields(), **fields}
    if AutoConfig.from_pretrained(folder).model_type == "bert":
        config = EmocapTeacherConfig(
            text_config=AutoConfig.from_pretrained(folder), fusion="late", **{"pooling": "mean", **fields}
        )
        model = EmocapTeacherForMultiLabelClassification(config)
        model.text_encoder.load_state_dict(AutoModel.from_pretrained(folder).state_dict(), strict=False)
    else:
        model = EmocapTeacherForMultiLabelClassification.from_body(folder, **fields)
    torch.nn.init.normal_(model.classifier.weight)
    torch.nn.init.normal_(model.classifier.bias)
    return model.eval()


def random_inputs(batch: int = 6, words: int = 9, regions: int = 5) -> dict[str, torch.Tensor]:
    """Pairs of differing lengths, padded on the right; row 1 has no regions, row 2 no words."""
    lengths = torch.randint(3, words + 1, (batch, 1))
    lengths[0] = words
    inside = torch.arange(words) < lengths
    ids = torch.where(inside, torch.randint(5, 90, (batch, words)), 1)
    ids[:, 0] = 0
    region_mask = torch.arange(regions) < torch.randint(1, regions + 1, (batch, 1))
    region_mask[1], inside[2] = False, False
    return {
        "input_ids": ids,
        "attention_mask": inside.long(),
        "visual_embeds": torch.randn(batch, regions, REGION_DIM),
        "visual_attention_mask": region_mask.long(),
    }
