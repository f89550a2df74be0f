"""Teachers and students as a run's arguments describe them, their processors, and the names of what is new."""

from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from emocap.arguments import StudentArguments, TeacherArguments
from emocap.data.pairs import FixedSizeColumn
from emocap.data.schema import NUM_REGIONS, label_names
from emocap.evaluation.scoring import check_labels, load_config
from emocap.models import (
    EmocapProcessor,
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherForMultiLabelClassification,
)
from emocap.regions.bundling import find_extractor
from emocap.training.layers import layers_of, parts_beside

__all__ = ["build_student", "build_teacher", "check_max_length", "label_fields", "sample_regions"]


def build_teacher(
    model_args: TeacherArguments, table: datasets.Dataset
) -> tuple[EmocapTeacherForMultiLabelClassification, EmocapProcessor, set[str]]:
    """The teacher of a table's emotions and region features, its processor and the names of its new parameters."""
    start = model_args.model_name_or_path
    source = AutoConfig.from_pretrained(start)
    extractor = model_args.region_extractor and find_extractor(model_args.region_extractor)
    processor = build_processor(start, extractor or getattr(source, "region_extractor", None))
    overrides: dict[str, Any] = label_fields(label_names(table))
    if model_args.pooling:
        overrides["pooling"] = model_args.pooling
    if model_args.fusion:
        overrides["fusion"] = model_args.fusion
    if model_args.pooled_layers:
        overrides["pooled_layers"] = model_args.pooled_layers
    if "region_features" in table.features:
        overrides["visual_embedding_dim"] = table.features["region_features"].length // NUM_REGIONS
    if extractor:
        overrides["region_extractor"] = extractor
    model = EmocapTeacherForMultiLabelClassification.from_body(
        start, reinit_visual_projection=model_args.reinit_visual_projection, **overrides
    )
    fresh = {f"classifier.{name}" for name, _ in model.classifier.named_parameters()}
    saw_no_photos = source.model_type not in ("visual_bert", "emocap_teacher") or model.config.modalities == "text"
    if saw_no_photos or model_args.reinit_visual_projection:
        own = {id(values) for values in model.region_part.parameters()}
        fresh |= {name for name, values in model.named_parameters() if id(values) in own}
        if "region_features" in table.features:
            model.region_normalizer.fit(sample_regions(table))
    if model_args.freeze_body:
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
    if model_args.freeze_layers is not None:
        freeze_layers(model, model_args.freeze_layers)
    return model, processor, fresh


def freeze_layers(model: EmocapTeacherForMultiLabelClassification, number: int) -> None:
    """Freezes what the words pass first: their embeddings, with what all layers share, and so many layers. The visual
    embeddings train."""
    layers = layers_of(model.body)
    if number > len(layers):
        raise ValueError(f"--freeze_layers is {number}, but the body has {len(layers)} layers.")
    for part in (*parts_beside(model.body), *layers[:number]):
        part.requires_grad_(False)
    for name, values in model.named_parameters():
        if name.startswith("visual_bert.embeddings.visual_"):
            values.requires_grad_(True)


def check_max_length(start: str, max_length: int) -> None:
    """Refuses captions of more tokens than a checkpoint's body has positions.

    Raises:
        ValueError: names both numbers.
    """
    config = AutoConfig.from_pretrained(start)
    with torch.device("meta"):
        body = AutoModel.from_config(config)
    tables = [module for name, module in body.named_modules() if name.split(".")[-1] == "position_embeddings"]
    limit = getattr(config, "max_position_embeddings", None)
    if tables:  # those of RoBERTa and its kin begin after the padding's
        limit = tables[0].num_embeddings - (0 if tables[0].padding_idx is None else tables[0].padding_idx + 1)
    if limit is not None and 0 < limit < max_length:
        raise ValueError(f"--max_length is {max_length}, but '{start}' has positions for {limit} tokens.")


def build_processor(start: str, region_extractor: str | None) -> EmocapProcessor:
    """The teacher's processor: an emocap checkpoint's own knows the extractor that lies inside it.

    Raises:
        ValueError: a tokenizer that does not pad.
    """
    if AutoConfig.from_pretrained(start).model_type == "emocap_teacher":
        return EmocapProcessor.from_pretrained(start, region_extractor=region_extractor)
    tokenizer = AutoTokenizer.from_pretrained(start)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer of '{start}' has no padding token, which captions of differing length need.")
    return EmocapProcessor(tokenizer, region_extractor=region_extractor)


def build_student(
    model_args: StudentArguments, names: list[str]
) -> tuple[EmocapStudentForMultiLabelClassification, EmocapProcessor, set[str]]:
    """A new student of some emotions with pretrained word embeddings or a pretrained BERT, or a student checkpoint to
    go on from; its processor; and, beside pretrained networks, the names of what is new."""
    start = model_args.model_name_or_path
    if start:
        check_labels(load_config(start), names, start)
        model = EmocapStudentForMultiLabelClassification.from_pretrained(start)
        return model, EmocapProcessor.from_pretrained(start), set()
    vocabulary = model_args.text_encoder or model_args.word_embeddings
    words = AutoConfig.from_pretrained(vocabulary)
    if model_args.text_encoder and words.model_type != "bert":
        raise ValueError(f"--text_encoder '{vocabulary}' is a '{words.model_type}' checkpoint; expected a BERT.")
    config = EmocapStudentConfig(
        vocab_size=words.vocab_size,
        pad_token_id=words.pad_token_id,
        word_embedding_size=words.hidden_size,
        freeze_word_embeddings=model_args.freeze_word_embeddings,
        word_projection_size=model_args.word_projection_size,
        gru_hidden_size=model_args.gru_hidden_size,
        gru_num_layers=model_args.gru_num_layers,
        text_config=words.to_dict() if model_args.text_encoder else None,
        image_backbone=model_args.image_backbone,
        image_size=model_args.image_size,
        cnn_channels=model_args.cnn_channels,
        fc_hidden_size=model_args.fc_hidden_size,
        **label_fields(names),
    )
    model = EmocapStudentForMultiLabelClassification(config)
    if model_args.text_encoder:
        model.load_text_encoder(vocabulary)
    else:
        model.load_word_embeddings(vocabulary)
    if model_args.image_weights:
        model.load_image_backbone(model_args.image_weights)
    given = ("text_encoder.",) * bool(model_args.text_encoder) + ("cnn.",) * bool(model_args.image_weights)
    fresh = {name for name, _ in model.named_parameters() if given and not name.startswith(given)}
    return model, EmocapProcessor(AutoTokenizer.from_pretrained(vocabulary), image_size=config.image_size), fresh


def label_fields(names: list[str]) -> dict[str, dict]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def sample_regions(table: datasets.Dataset, rows: int = 1000) -> torch.Tensor:
    """Region features float32 `(n, dim)` of up to `rows` photos, evenly spread over the table."""
    column, counts = (
        FixedSizeColumn(table, "region_features"),
        np.asarray(table.with_format("numpy")["num_regions"][:]),
    )
    chosen = np.flatnonzero(counts)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(rows, len(chosen))).astype(int)]
    features = column[chosen].reshape(len(chosen), NUM_REGIONS, -1)
    inside = np.arange(NUM_REGIONS) < counts[chosen][:, None]
    return torch.from_numpy(features[inside]).float()
