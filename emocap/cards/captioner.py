"""The card of a captioner, filled from its run's own files."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from emocap.cards import models
from emocap.cards.public_names import PublicNames
from emocap.cards.text import Markdown, escape, in_code, one_line, render, table
from emocap.data.licenses import license_fields, license_note
from emocap.records import ARGUMENTS_FILE, CAPTION_FIGURES, CAPTION_LOSSES, Result, caption_ways

__all__ = ["captioner_card"]


WAYS = {
    "shuffled_wishes": "judged for other wishes",
    "shuffled_images": "beside another picture",
    "no_wish": "without a wish",
    "best_caption": "the picture's own caption with most of the emotion",
    "references": "the picture's own captions",
}
"""What the parts of a way's name say that need words."""


EXACT_FIGURES = {"share_of_best": "of best", "parsed": "grammar", "thing": "thing"}
"""Of captions of the built-in corpus, whose judge is exact."""


def captioner_card(folder: Path, repo_id: str | None, names: PublicNames, license: str | None) -> ModelCard:
    """As `model_card`."""
    result = Result.read(folder)
    config, processor, arguments = (
        models.read_json(folder / name) for name in ("config.json", "processor_config.json", ARGUMENTS_FILE)
    )
    repo_id, dataset = repo_id or folder.name, names.shown(arguments["dataset"] or models.IN_MEMORY)
    title, carbon, chosen = repo_id.rpartition("/")[2], models.carbon_of(folder), license or arguments.get("license")
    licenses, emotions = [chosen] if chosen else arguments.get("licenses"), list(config["id2label"].values())
    data = ModelCardData(
        language="en",
        **license_fields(licenses),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["emotion", "image-captioning", "emocap", config["model_type"]],
        base_model=models.hub_ids(arguments, names, ("model_name_or_path",)),
        datasets=models.hub_ids(arguments, names, ("dataset",)),
        co2_eq_emissions=carbon,
        model_name=one_line(title),
    )
    text = render(
        "captioner",
        title=title,
        parameters=f"{models.num_parameters(folder):,}",
        language_model=in_code(config["text_config"]["model_type"]),
        dataset=in_code(dataset),
        num_labels=len(emotions),
        labels=Markdown(", ".join(map(escape, emotions))),
        repo_id=repo_id,
        sees_photos=bool(processor.get("region_extractor")),
        wish={emotions[0]: 1.0},
        family=Markdown(models.relations(arguments, names) + models.family_table(names, repo_id)),
        result=result,
        is_evaluated="guidance_scales" in result,
        is_exact="references/nats" not in result,
        judge=told_models(result.get("judge"), names),
        ranker=told_models(result.get("ranker"), names),
        results=evaluation_table(result) if "guidance_scales" in result else losses_table(result),
        data=models.data_table(arguments, names, result, processor),
        license_note=license_note(licenses),
        command=models.run_command(arguments, names),
        names_folders=any(arguments.get(key) and not names.hub_id(arguments[key]) for key in models.RELATIONS),
        training=models.training_table(arguments),
        state=models.trainer_state(folder),
        carbon=carbon,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def losses_table(result: Result) -> Markdown:
    """What training left of the held-back captions."""
    rows = [(what, f"{result[key]:.3f}") for key, what in CAPTION_LOSSES.items()]
    return table(("the captioner is shown", "nats a token"), rows)


def evaluation_table(result: Result) -> Markdown:
    """What `emocap evaluate` found, each way of getting captions beside its controls."""

    shown = {
        key: head
        for key, head in (CAPTION_FIGURES | EXACT_FIGURES).items()
        if any(f"{way}/{key}" in result for way in caption_ways(result))
    }

    def cell(way: str, key: str) -> str:
        value, bounds = result.figure(f"{way}/{key}"), result.interval(f"{way}/{key}")
        text = "–" if value is None else f"{value:.3f}"
        return f"{text} ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds and key == "lift" else text

    rows = [(told(way), *(cell(way, key) for key in shown)) for way in caption_ways(result)]
    return table(("captions", *shown.values()), rows)


def told(way: str) -> str:
    """A way of getting captions in words: "guidance 2, best of 8, judged for other wishes"."""
    return ", ".join(WAYS.get(part, part.replace("_", " ")) for part in way.split("/"))


def told_models(models: str | None, names: PublicNames) -> Markdown:
    """Models that answered together, by their public names."""
    return Markdown(", ".join(in_code(names.shown(own)) for own in models.split(", ")) if models else "")
