"""Model and data set cards, filled from a run's own files. No figure in them has another source."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants
from safetensors import safe_open

from emocap.arguments import captioner_parser, finetune_parser, student_parser, teacher_parser
from emocap.cards.public_names import PublicNames
from emocap.cards.surgery import WITHOUT_WEIGHTS, told_surgery
from emocap.cards.text import Markdown, escape, in_code, one_line, render, shell_command, table
from emocap.data.licenses import license_fields, license_note
from emocap.records import ARGUMENTS_FILE, CONTROLS, GAIN_KEYS, PATH_KEYS, Result
from emocap.report.tables import TRUTHS, interval_text, value_text

__all__ = ["family_table", "hub_link", "model_card", "num_parameters", "write_model_card"]

SHOWN = (
    "map_macro",
    "map_micro",
    "lrap",
    "top1_accuracy",
    "top3_accuracy",
    "f1_micro",
    "jaccard",
    "ece",
    "jsd",
    "bce",
)
COLUMNS = {
    "model": "",
    "prior": "prior/",
    "chance": "chance/",
    "one annotator": "human/",
    "model as one": "as_human/",
    "ceiling": "ceiling/",
}
PIPELINE_TAGS = {"text": "text-classification", "image": "image-classification"}
READS = {
    "both": "picture and caption",
    "text": "captions alone",
    "image": "pictures alone",
    None: "picture and caption, but was never trained",
}
TRAINING_KEYS = (
    "learning_rate",
    "head_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "loss",
    "pos_weight",
    "label_smoothing",
    "early_stopping_patience",
    "metric_for_best_model",
    "bf16",
    "fp16",
    "seed",
)
RELATIONS = {
    "model_name_or_path": "starts from",
    "word_embeddings": "takes its word embeddings from",
    "text_encoder": "reads captions with",
    "student": "starts from the student",
    "teacher": "has the architecture of",
    "dataset": "is trained on",
    "mix_dataset": "is trained beside on",
    "source_dataset": "fits its head on",
    "region_extractor": "reads photos with",
}
"""How a model stands to what its arguments name."""

DATASET_KEYS = ("dataset", "mix_dataset", "source_dataset")

IN_MEMORY = "a table in memory"
"""What a run was trained on that was given a table, and not the folder or Hub id of one."""


def write_model_card(folder: Path) -> None:
    """Writes README.md beside a finished run's checkpoint."""
    model_card(folder).save(folder / "README.md")


def model_card(
    folder: Path, repo_id: str | None = None, names: PublicNames | None = None, license: str | None = None
) -> ModelCard:
    """The card of a finished run, from its config.json, metrics.json, run_arguments.json and trainer_state.json.

    Args:
        folder: the run's folder.
        repo_id: what the snippets load; by default the folder's name.
        names: what folders are called in public.
        license: what the card names; by default what the run was told, or that of its training data, or none.
    """
    names = names or PublicNames()
    if read_json(folder / ARGUMENTS_FILE)["kind"] == "captioner":
        from emocap.cards.captioner import captioner_card

        return captioner_card(folder, repo_id, names, license)
    result, config, arguments = Result.read(folder), *map(read_json, (folder / "config.json", folder / ARGUMENTS_FILE))
    processor = read_json(folder / "processor_config.json") if (folder / "processor_config.json").is_file() else {}
    repo_id, modalities = repo_id or folder.name, config.get("modalities")
    title, dataset = repo_id.rpartition("/")[2], names.shown(arguments["dataset"] or IN_MEMORY)
    sees_photos = modalities != "text" and bool(processor.get("image_size") or processor.get("region_extractor"))
    captions = {} if modalities == "image" else {"text": "a birthday party in the garden"}
    carbon, chosen = carbon_of(folder), license or arguments.get("license")
    licenses = [chosen] if chosen else arguments.get("licenses")
    is_simulated = "ceiling/lrap" in result  # of no real crowd the true probabilities are known
    against_people = result["truth"] in TRUTHS  # where a model's labels are the truth, there is no ceiling
    data = ModelCardData(
        language="en",
        **license_fields(licenses),
        library_name="transformers",
        pipeline_tag=PIPELINE_TAGS["image" if modalities == "image" else "text"],
        tags=["emotion", "multi-label-classification", "image-text", "emocap", config["model_type"]],
        base_model=hub_ids(arguments, names, base_keys(arguments)),
        datasets=hub_ids(arguments, names, DATASET_KEYS),
        widget=[captions] if captions else None,
        co2_eq_emissions=carbon,
        model_name=one_line(title),
        eval_results=eval_results(result, one_line(dataset)),
    )
    text = render(
        arguments["kind"],
        title=title,
        kind=arguments["kind"],
        parameters=f"{num_parameters(folder):,}",
        dataset=in_code(dataset),
        num_labels=len(config["id2label"]),
        labels=Markdown(", ".join(map(escape, config["id2label"].values()))),
        architecture=Markdown(architecture_of(config)),
        strategy=in_code(arguments["strategy"]) if arguments.get("strategy") else "",
        told=told_surgery(folder, arguments.get("strategy")),
        repo_id=repo_id,
        inputs=({"image": "party.jpg"} if sees_photos else {}) | captions,
        reads=READS[modalities] + ("" if sees_photos or modalities == "text" else "; pictures as region features"),
        family=Markdown(relations(arguments, names) + family_table(names, repo_id)),
        result=result,
        against_people=against_people,
        truth_column=in_code(result["truth"]),
        is_simulated=is_simulated,
        results=results_table(result, has_ceiling=is_simulated and against_people),
        controls=CONTROLS,
        gain_keys=GAIN_KEYS,
        value_text=value_text,
        interval_text=interval_text,
        temperature=config.get("temperature"),
        emotions=config["id2label"],
        prevalence=config.get("label_prevalence"),
        thresholds=config.get("thresholds"),
        data=data_table(arguments, names, result, processor),
        license_note=license_note(licenses),
        command=run_command(arguments, names),
        names_folders=any(arguments.get(key) and not names.hub_id(arguments[key]) for key in RELATIONS),
        training=training_table(arguments),
        state=trainer_state(folder),
        carbon=carbon,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def architecture_of(config: dict) -> str:
    if config["model_type"] == "emocap_teacher":
        encoder = config.get("text_config")
        body = f"a text encoder ({encoder['model_type']})" if encoder else "a VisualBERT body"
        return f"{body} with a linear head"
    words = "a BERT" if config.get("text_config") else "word embeddings, a GRU"
    return f"{words} and {config.get('image_backbone') or 'a few convolutions'}"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def base_keys(arguments: dict) -> tuple[str, ...]:
    """The arguments whose weights a model starts from; from scratch it takes an architecture alone."""
    own = () if arguments.get("strategy") in WITHOUT_WEIGHTS else ("student", "teacher")
    return ("model_name_or_path", "word_embeddings", "text_encoder", *own)


def hub_ids(arguments: dict, names: PublicNames, keys: tuple[str, ...]) -> list[str] | None:
    """Hub ids among some arguments, each once; None where there is none."""
    found = [names.hub_id(arguments.get(key)) for key in keys]
    return list(dict.fromkeys(filter(None, found))) or None


def eval_results(result: Result, dataset: str) -> list[EvalResult]:
    """The model-index: each figure with its 95 % interval, where there is one."""
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Emotions of a picture with its caption",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=result["split"],
            metric_type=key,
            metric_name=key,
            metric_value=round(result[key], 4),
            metric_args={"interval_95": [round(bound, 4) for bound in bounds]}
            if (bounds := result.interval(key))
            else None,
        )
        for key in SHOWN
        if result.figure(key) is not None
    ]


def num_parameters(folder: Path) -> int:
    """Numbers in all of a checkpoint's tensors, from the headers of its files."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def relations(arguments: dict, names: PublicNames) -> Markdown:
    """A line for each repository of the Hub that the run's arguments name."""
    told = RELATIONS | ({"student": RELATIONS["teacher"]} if arguments.get("strategy") in WITHOUT_WEIGHTS else {})
    lines = [
        f"- {relation} {hub_link(found, 'dataset' if key in DATASET_KEYS else 'model')}"
        for key, relation in told.items()
        if (found := names.hub_id(arguments.get(key)))
    ]
    return Markdown("This model:\n\n" + "\n".join(lines) + "\n\n") if lines else Markdown()


def family_table(names: PublicNames, repo_id: str) -> Markdown:
    """The repositories that are published together, if this is one of them."""
    if len(names.family) < 2:
        return Markdown()
    rows = [
        (role, Markdown("this one") if member == repo_id else hub_link(member, repo_type))
        for role, repo_type, member in names.family
    ]
    return Markdown(table(("part", "repository"), rows, numbers=False) + committee_note(names.committee))


def committee_note(committee: Sequence[str]) -> str:
    """How the teachers of a family are used together; empty of fewer than two."""
    if len(committee) < 2:
        return ""
    first, *others = map(json.dumps, committee)
    return f"""

The teachers answer together as a committee: their logits, each divided by its model's temperature, are averaged, and
`disagreement` is the standard deviation of their own probabilities.

```python
from transformers import pipeline

committee = pipeline(model={first}, committee=[{", ".join(others)}], trust_remote_code=True)
```

`emocap label TABLE --teacher {" ".join(committee)} --output_dir LABELLED` labels a table with them, and `emocap
train-teacher --dataset LABELLED --label_column emotion_scores` makes one model of them."""


def hub_link(repo_id: str, repo_type: str) -> Markdown:
    kind = "" if repo_type == "model" else f"{repo_type}s/"
    return Markdown(f"[{escape(repo_id)}]({constants.ENDPOINT}/{kind}{repo_id})")


def results_table(result: Result, has_ceiling: bool) -> Markdown:
    """The shown metrics with their intervals beside the prior and, where known, people and the ceiling."""
    shown = {
        name: prefix
        for name, prefix in COLUMNS.items()
        if any(result.figure(prefix + key) is not None for key in SHOWN)
    }
    if not has_ceiling:
        shown.pop("ceiling", None)
    keys = [key for key in SHOWN if result.figure(key) is not None]
    has_intervals = any(result.interval(key) for key in keys)

    def row(key: str) -> list[str]:
        own, *others = (value_text(result.figure(prefix + key)) for prefix in shown.values())
        return [key, own, *([interval_text(result.interval(key)) or "–"] if has_intervals else []), *others]

    first, *others = shown
    header = ["metric", first, *(["95 % interval"] if has_intervals else []), *others]
    return table(header, map(row, keys))


def data_table(arguments: dict, names: PublicNames, result: Result, processor: dict) -> Markdown:
    """Data sets, splits and their rows, columns, and how many captions are longer than the model reads."""
    rows: list[tuple[str, str]] = [
        (key, in_code(names.shown(arguments[key])))
        for key in (*DATASET_KEYS, "label_column", "modalities", "captions", "sampling", "max_length")
        if arguments.get(key) is not None and isinstance(arguments[key], str)
    ]
    rows += [(f"rows, {split}", f"{number:,}") for split, number in arguments.get("num_rows", {}).items()]
    if (share := result.get("truncated_captions")) is not None and processor.get("max_length"):
        rows.append((f"captions cut at {processor['max_length']} tokens, {result['split']}", f"{100 * share:.1f} %"))
    return table(("data", "value"), rows, numbers=False)


def training_table(arguments: dict) -> Markdown:
    nothing = (None, "", -1)  # -1 is `max_steps` where the epochs decide
    rows = [(key, str(arguments[key])) for key in TRAINING_KEYS if arguments.get(key) not in nothing]
    return table(("setting", "value"), rows, numbers=False)


def run_command(arguments: dict, names: PublicNames) -> Markdown:
    """The command of the run: every option that says what is trained on what, and is not at its default."""
    parsers = {
        "captioner": captioner_parser,
        "teacher": teacher_parser,
        "student": student_parser,
        "finetuned": finetune_parser,
    }
    parser = parsers[arguments["kind"]]()
    words, (data, job, _) = parser.prog.split(), parser.parts
    own = [field.name for group in (data, job) for field in fields(group)]
    for key in (*own, *TRAINING_KEYS, "output_dir"):
        value = arguments.get(key)
        if value is not None and value != parser.get_default(key):
            values = value if isinstance(value, list) else [value]
            shown = PublicNames().shown if key == "output_dir" else names.shown
            words += [f"--{key}", *(shown(each) if key in PATH_KEYS else each for each in values)]
    return shell_command(words)


def trainer_state(folder: Path) -> dict:
    """What `Trainer` logged, if it was one that trained."""
    path = folder / "trainer_state.json"
    return read_json(path) if path.is_file() else {"log_history": []}


def carbon_of(folder: Path) -> dict[str, Any] | None:
    """Grams of CO2 equivalent from codecarbon's emissions.csv (kilograms, a row a session), if there is one."""
    path = folder / "emissions.csv"
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        grams = 1000 * sum(float(row["emissions"]) for row in csv.DictReader(file))
    return {"emissions": round(grams, 3), "source": "codecarbon", "training_type": "fine-tuning"}
