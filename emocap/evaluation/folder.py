"""A folder of photos in, a file of answers out."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from pyarrow import csv, parquet
from transformers import pipeline

from emocap.data.batches import weights_hash
from emocap.data.shards import job_fingerprint, map_in_shards
from emocap.data.sources import open_source
from emocap.data.storage import DataReport, find_photos, write_json
from emocap.evaluation.scoring import Committee
from emocap.models import EmotionRecognitionPipeline
from emocap.models.photo_emocap import photos_in_folder
from emocap.terminal import progress

__all__ = ["ENDINGS", "predict_folder", "report_path"]

ENDINGS = (".csv", ".jsonl", ".parquet")

OWN_COLUMNS = ("image", "caption", "disagreement")

PHOTOS_A_PART = 256
"""What a kill loses at most."""


def predict_folder(
    model: str | Sequence[str] | EmotionRecognitionPipeline,
    images: str | Path,
    output: str | Path,
    *,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Probabilities of every emotion for every photo of a folder, or for every row of a CSV, in a file.

    Photos are found by `photos_in_folder`, with a caption where a `.txt` of the same name lies beside one; or see
    `pairs_in_table`. The file has a row for each: `image`, its path in the folder or as the CSV has it; `caption`, or
    null; a column of each emotion's name, float32; of several models `disagreement`, the standard deviation of their
    own probabilities, mean over the emotions. JSON lines hold the probabilities in a mapping `emotions` instead. What
    cannot be read has no row: it is listed in FILE.report.json beside the file. A killed job goes on where it was, and
    what is finished is not done again unless photos, captions, weights or settings have changed.

    Args:
        model: folder or Hub id of a teacher or student, several that answer together, or a loaded pipeline.
        images: the folder, or the CSV.
        output: the file, whose ending says what it is, see `ENDINGS`.
        batch_size: photos that go through the models together.

    Returns:
        What FILE.report.json holds: `counts`, `models`, `fingerprint`, `sha256` of the file, and `problems`.

    Raises:
        FileNotFoundError: no such folder or CSV, or no photo in it.
        FileExistsError: the file is there and is not this function's.
        ValueError: another ending, models with unlike emotions or with one that is called like a column, a teacher
            without a region extractor, a CSV without the columns, or no photo that can be answered.
    """
    output = Path(output)
    if output.suffix not in ENDINGS:
        raise ValueError(f"The output is '{output}'; its name must end in {', '.join(ENDINGS)}.")
    if output.exists() and not report_path(output).is_file():
        raise FileExistsError(f"'{output}' exists and is no earlier result; give another name.")
    photos = pairs_in_table(Path(images)) if Path(images).is_file() else pairs_in_folder(Path(images).resolve())
    pipe = model if isinstance(model, EmotionRecognitionPipeline) else None
    committee = pipe.committee if pipe else Committee([model] if isinstance(model, str) else model).config
    emotions = [committee.id2label[label] for label in range(committee.num_labels)]
    if taken := set(emotions).intersection(OWN_COLUMNS):
        raise ValueError(f"An emotion of '{committee.names[0]}' is called '{min(taken)}', which is another column.")
    pipe = pipe or pipeline("emotion-recognition", model=committee.names[0], committee=committee.names[1:])
    settings = {"members": [member_settings(member) for member in pipe.members]}
    paths = [photo["image"] for photo in photos]
    stats = [os.stat(path) if path and os.path.isfile(path) else None for path in paths]
    table = Dataset.from_dict(
        {
            "image": paths,
            "text": [photo["text"] for photo in photos],
            "bytes": [stat and stat.st_size for stat in stats],
            "changed": [stat and stat.st_mtime_ns for stat in stats],
        },
        features=Features(
            {"image": Value("string"), "text": Value("string"), "bytes": Value("int64"), "changed": Value("int64")}
        ),
    )
    fingerprint = job_fingerprint(settings, [table])
    if is_finished(output, fingerprint):
        return json.loads(report_path(output).read_text("utf-8"))
    output.parent.mkdir(parents=True, exist_ok=True)
    work_dir = output.with_name(f".{output.name}.parts")

    def answer(parts: list[Dataset]) -> Iterator[pa.Table]:
        with progress(total=sum(map(len, parts)), desc="Predicting", unit="photos") as bar:
            for part in parts:
                yield answer_part(pipe, part, emotions, batch_size, bar)

    columns = Features(
        {
            "probabilities": List(Value("float32"), length=len(emotions)),
            "disagreement": Value("float32"),
            "problem": Value("string"),
        }
    )
    answers = map_in_shards(table, answer, columns, work_dir, settings, PHOTOS_A_PART)
    report = DataReport()
    report.extra = {"models": committee.names, "fingerprint": fingerprint}
    for photo, problem in zip(photos, answers["problem"][:], strict=True):
        if problem is None:
            report.counts["photos answered"] += 1
        else:
            report.problem(photo["name"] or "a row without a photo", problem, "left out")
    if not report.counts["photos answered"]:
        shutil.rmtree(work_dir)
        raise ValueError(f"Of {len(photos)} photos none can be answered, the first because: {answers[0]['problem']}")
    partial = output.with_name(f".{output.name}.partial")
    try:
        write_answers(partial, output.suffix, answer_table(photos, answers, emotions, len(committee.names) > 1))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    report.extra["sha256"] = file_hash(partial)
    write_json(report_path(output), report.to_dict())  # first: a file that is not the report's is done again
    partial.replace(output)
    shutil.rmtree(work_dir)
    return report.to_dict()


def report_path(output: str | Path) -> Path:
    """FILE.report.json beside the file."""
    return Path(f"{output}.report.json")


def is_finished(output: Path, fingerprint: str) -> bool:
    if not (output.is_file() and report_path(output).is_file()):
        return False
    told = json.loads(report_path(output).read_text("utf-8"))
    return told.get("fingerprint") == fingerprint and told.get("sha256") == file_hash(output)


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def member_settings(member: EmotionRecognitionPipeline) -> dict[str, Any]:
    """What a model's answers depend on."""
    config, processor = member.model.config, member.processor
    settings = {"config": config.to_json_string(), "max_length": processor.max_length}
    if processor.image_size is None and config.modalities != "text":
        settings["extractor"] = weights_hash(processor.load_extractor())
    return settings | {"weights": weights_hash(member.model)}


def answer_part(
    pipe: EmotionRecognitionPipeline, part: Dataset, emotions: list[str], batch_size: int, bar: Any
) -> pa.Table:
    """Probabilities, disagreement and problem of each row of a part."""
    probabilities, spreads, problems = [], [], []
    pairs = part.select_columns(["image", "text"]).to_list()
    for rows in pipe.answers(pairs, batch_size):
        bar.update(1)
        problems.append(None if isinstance(rows, list) else str(rows))
        found = {row["label"]: row for row in rows} if isinstance(rows, list) else {}
        probabilities.append([found[name]["score"] for name in emotions] if found else None)
        spread = [row["disagreement"] for row in found.values() if "disagreement" in row]
        spreads.append(float(np.mean(spread)) if spread else None)
    return pa.table(
        [
            pa.array(probabilities, pa.list_(pa.float32(), len(emotions))),
            pa.array(spreads, pa.float32()),
            pa.array(problems, pa.string()),
        ],
        names=["probabilities", "disagreement", "problem"],
    )


def pairs_in_folder(root: Path) -> list[dict[str, str | None]]:
    """As `photos_in_folder`, with each photo's path in the folder as its `name`."""
    photos = photos_in_folder(root)
    return [photo | {"name": Path(str(photo["image"])).relative_to(root).as_posix()} for photo in photos]


def pairs_in_table(path: Path) -> list[dict[str, str | None]]:
    """As `pairs_in_folder`, of the columns `image`, a path that starts at the CSV and stays in its folder, and
    `caption`, of which one may be absent or empty. TSV and JSON lines do, too.

    Raises:
        ValueError: the file cannot be read, or has none of these columns.
    """
    source, pairs = open_source(path), []
    columns = [name for name in ("image", "caption") if name in source.columns]
    if not columns:
        raise ValueError(f"'{path}' has the columns {', '.join(source.columns)}; expected image, caption or both.")
    for _, row in source.rows(columns):
        pairs.append({"name": row.get("image") or None, "text": row.get("caption") or None})
    found = find_photos(path.parent, [pair["name"] for pair in pairs])
    for pair, (photo, problem) in zip(pairs, found, strict=True):
        pair["image"] = str(photo or path.parent / Path(pair["name"] or "").name) if photo or problem else None
    return pairs


def answer_table(
    photos: list[dict[str, str | None]], answers: Dataset, emotions: list[str], is_committee: bool
) -> pa.Table:
    """The rows of the photos that were answered: image, caption, emotions and, of a committee, disagreement."""
    kept = np.flatnonzero([problem is None for problem in answers["problem"][:]])
    found = answers.select(kept).with_format("numpy")
    probabilities = np.asarray(found["probabilities"][:], dtype=np.float32)
    columns = {
        "image": pa.array([photos[row]["name"] for row in kept], pa.string()),
        "caption": pa.array([photos[row]["text"] for row in kept], pa.string()),
    }
    columns |= {name: pa.array(probabilities[:, label]) for label, name in enumerate(emotions)}
    if is_committee:
        columns["disagreement"] = pa.array(np.asarray(found["disagreement"][:], dtype=np.float32))
    return pa.table(list(columns.values()), names=list(columns))


def write_answers(path: Path, ending: str, table: pa.Table) -> None:
    if ending == ".parquet":
        parquet.write_table(table, path)
    elif ending == ".csv":
        csv.write_csv(table, path)
    else:
        with path.open("w", encoding="utf-8") as file:
            for row in table.to_pylist():
                own = {name: row.pop(name) for name in OWN_COLUMNS if name in row}
                told = {"image": own.pop("image"), "caption": own.pop("caption"), "emotions": row} | own
                file.write(json.dumps(told, ensure_ascii=False) + "\n")
