"""Cards of what a family needs beside its models: region extractor and metrics."""

import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData, RepoCard
from transformers import AutoConfig

from emocap.cards.models import family_table, hub_link, num_parameters
from emocap.cards.public_names import PublicNames
from emocap.cards.text import Markdown, in_code, render, shell_command

__all__ = ["extractor_card", "metric_card", "space_card"]


def extractor_card(
    folder: Path, repo_id: str, names: PublicNames | None = None, license: str | None = None
) -> ModelCard:
    """The card of a region extractor, from its config.json, which knows of no licence: it names the one given."""
    config = AutoConfig.from_pretrained(folder).to_dict()
    title, encoder = repo_id.rpartition("/")[2], config.get("vision_config")
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[*["object-detection"] * (not encoder), "region-features", "emocap", config["model_type"]],
        base_model=config.get("encoder"),
    )
    text = render(
        "extractor",
        title=title,
        num_regions=config["num_regions"],
        feature_dim=config["feature_dim"],
        architecture=in_code(config.get("architecture") or (encoder or config)["model_type"]),
        is_grid=bool(encoder),
        encoder=config.get("encoder") and in_code(config["encoder"]),
        parameters=f"{num_parameters(folder):,}",
        classes=[name for name in (config.get("id2label") or {}).values() if not re.fullmatch(r"LABEL_\d+", name)],
        repo_id=repo_id,
        command=shell_command(["emocap", "regions", "DATASET", "--extractor", repo_id, "--output_dir", "regions"]),
        family=family_table(names or PublicNames(), repo_id),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def metric_card(repo_id: str, license: str | None = None) -> RepoCard:
    """The card of the metric's Space; its code is this project's, under its licence."""
    from emocap.metrics import METRIC_KEYS

    title = repo_id.rpartition("/")[2]
    data = {
        "title": title,
        "sdk": "static",
        "license": license or "apache-2.0",
        "tags": ["evaluate", "metric", "emocap"],
        "description": "Metrics of multi-label emotion prediction beside the constant answer",
    }
    text = render(
        "metric",
        title=title,
        repo_id=repo_id,
        keys=Markdown(", ".join(f"`{key}`" for key in METRIC_KEYS)),
    )
    return RepoCard(f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n{text}")


def space_card(
    models: Sequence[str], repo_id: str, captioner: str | None = None, license: str | None = None
) -> RepoCard:
    """The card of the app's Space, which also says how it runs."""
    title = repo_id.rpartition("/")[2]
    named = [*models, *([captioner] if captioner else [])]
    data = {
        "title": title,
        "emoji": "🖼️",
        "colorFrom": "blue",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "license": license or "apache-2.0",
        "short_description": "Emotions that photos with captions raise in people",
        "tags": ["emocap"],
        "models": named,
    }
    links = Markdown(", ".join(hub_link(name, "model") for name in models))
    text = render("space", title=title, models=links, captioner=captioner and hub_link(captioner, "model"))
    return RepoCard(f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n{text}")
