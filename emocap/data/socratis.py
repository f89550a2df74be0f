"""Socratis (Deng et al. 2023): what people felt before an image with its caption, as a table of pairs."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets import DatasetDict

from emocap.data.annotations import Annotated, by_count, fixed_labels, keep_labels, parse_list, refuse_unknown
from emocap.data.licenses import set_license
from emocap.data.schema import pair_features, socratis_labels, to_dataset_dict
from emocap.data.storage import DataReport, attach_photos, csv_rows, parse_json, read_text

__all__ = ["RAW_MIN_COUNT", "build_socratis", "clean_label", "load_socratis"]

RAW_MIN_COUNT = 100
"""Images that must carry a label of the raw annotations for it to be kept, as in the original study."""

NO_EMOTION = {"", "none", "not entered"}
CSV_COLUMNS = ("image_name", "caption", "emotions")
EXPECTED = (
    "Socratis' raw JSON {id: [[image_path, caption, [emotions], [explanations], demographics], ...]} or a cleaned "
    f"CSV with the columns {', '.join(CSV_COLUMNS)}"
)


def load_socratis(
    source: str | os.PathLike,
    *,
    images_dir: str | os.PathLike | None = None,
    min_count: int | None = None,
    labels: Sequence[str] | str | os.PathLike | None = None,
    seed: int = 0,
) -> DatasetDict:
    """The table of `build_socratis`, without its report."""
    return build_socratis(source, images_dir=images_dir, min_count=min_count, labels=labels, seed=seed)[0]


def build_socratis(
    source: str | os.PathLike,
    *,
    images_dir: str | os.PathLike | None = None,
    min_count: int | None = None,
    labels: Sequence[str] | str | os.PathLike | None = None,
    seed: int = 0,
) -> tuple[DatasetDict, DataReport]:
    """Reads Socratis into splits train, validation and test, one row an image.

    Args:
        source: the raw per-annotator JSON or a cleaned CSV (`image_name,caption,emotions`, the emotions as a
            Python-style list of strings).
        images_dir: folder of the photos; without it `image` is null.
        min_count: keep emotions found in at least so many images. By default 100 for the raw JSON; a cleaned CSV
            keeps all of its own.
        labels: the emotions to keep, in order, as a list or the path of a JSON list. They fix the set, so that
            `min_count` has no say. Without them the 29 Socratis emotions come first, in the study's order, then
            further ones alphabetically.
        seed: seed of the splits.

    Returns:
        The table with `labels` List(float32, L) multi-hot and `emotions` List(ClassLabel), most votes first. From
        the raw JSON also `votes` List(int32, L) (annotators who named the emotion), `num_annotators` int32 (all
        reactions to the image, empty ones included) and `soft_labels` List(float32, L) = votes / num_annotators.
        The report lists the strings left out under `dropped_labels`. Misspelt emotions ("aggrivated") are not
        corrected, as in the study: they are among `below_min_count`.

    Raises:
        FileNotFoundError: `source`, `images_dir` or the file of `labels` does not exist.
        ValueError: `source` has neither form, a cell cannot be read, a cleaned CSV names an emotion that is not in
            `labels`, no emotion is frequent enough, or a split stays empty.
    """
    fixed = fixed_labels(labels)
    if min_count is not None and min_count < 1:
        raise ValueError(f"min_count is {min_count}; expected 1 or more images.")
    if images_dir is not None and not Path(images_dir).is_dir():
        raise FileNotFoundError(f"There is no photo folder '{images_dir}'; leave it out to go without photos.")
    report = DataReport()
    text = read_text(source, EXPECTED)
    raw = text.lstrip()[:1] in ("{", "[")
    images = _images_from_raw(text, source, report) if raw else _images_from_csv(text, source, report)
    counts = Counter(emotion for image in images.values() for emotion in image.votes)
    if fixed is not None and not raw:
        refuse_unknown(counts, fixed, source)
    study = socratis_labels()
    order = [*study, *sorted(counts.keys() - set(study))]
    names = keep_labels(counts, order, min_count or (RAW_MIN_COUNT if raw else 1), fixed, report)
    # A CSV tells whether an emotion was named, not by how many.
    kept = {image_id: image for image_id, image in images.items() if any(image.votes[name] for name in names)}
    rows = [image.row(image_id, names, votes=raw) for image_id, image in kept.items()]
    report.count("images without a kept emotion, dropped", len(images) - len(rows))
    rows = attach_photos(rows, images_dir, report)
    table = to_dataset_dict(rows, pair_features(names, votes=raw), seed)
    return set_license(table, "socratis-research-only"), report


def clean_label(raw: str) -> str | None:
    """An emotion as an annotator typed it, cleaned as in the original study, or None where it is left out.

    Lower-case; drop a string of one letter and a string with a space; strip double quotes at both ends; cut at "(".
    The 982 distinct strings of Socratis become 853.
    """
    label = raw.lower()
    if len(label) == 1 or " " in label:
        return None
    return label.strip('"').split("(")[0] or None


def _images_from_raw(text: str, source: str | os.PathLike, report: DataReport) -> dict[str, Annotated]:
    """Reactions grouped by image; what the cleaning left out goes to the report's `dropped_labels`."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"'{source}' starts like JSON but cannot be read: {error}. Expected {EXPECTED}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{source}' holds a JSON {type(content).__name__}; expected {EXPECTED}.")
    images: dict[str, Annotated] = {}
    dropped: dict[str, Counter[str]] = {"multi_word": Counter(), "single_letter": Counter(), "no_letters": Counter()}
    typed, cleaned = set(), set()
    for key, reactions in content.items():
        for reaction in reactions if isinstance(reactions, list) else [reactions]:
            if problem := _reaction_problem(reaction):
                report.problem(str(key), problem, "reaction skipped")
                continue
            image_id, caption, answers = reaction[:3]
            # Blanks around an answer are no second word, so they go before the study's cleaning begins.
            answers = [answer.strip().lower() for answer in answers if isinstance(answer, str)]
            answers = [answer for answer in answers if answer not in NO_EMOTION]
            emotions = {answer: clean_label(answer) for answer in answers}
            for answer in answers:
                if emotions[answer] is None:
                    dropped[_why_dropped(answer)][answer] += 1
            named = {emotion for emotion in emotions.values() if emotion is not None}
            typed.update(answers)
            cleaned.update(named)
            image = images.setdefault(image_id, Annotated())
            image.add_caption(caption if isinstance(caption, str) else "")
            image.add_answer(named)
            report.count("reactions")
            report.count("reactions without an emotion", not answers)
    if not images:
        first = report.problems[0]["reason"] if report.problems else "it is empty"
        raise ValueError(f"'{source}' holds no reaction ({first}); expected {EXPECTED}.")
    report.count("images", len(images))
    report.count("distinct emotion strings", len(typed))
    report.count("distinct emotions after cleaning", len(cleaned))
    report.extra["dropped_labels"] = {reason: by_count(strings) for reason, strings in dropped.items()}
    return images


def _reaction_problem(reaction: object) -> str | None:
    if not isinstance(reaction, list) or len(reaction) < 3:
        return "not a list of image path, caption and emotions"
    if not isinstance(reaction[0], str) or not reaction[0].strip():
        return f"the image path is {str(reaction[0])[:80]!r}"
    if not isinstance(reaction[2], list):
        return f"the emotions are not a list but {str(reaction[2])[:80]!r}"
    return None


def _why_dropped(answer: str) -> str:
    if " " in answer:
        return "multi_word"
    return "single_letter" if len(answer) == 1 else "no_letters"


def _images_from_csv(text: str, source: str | os.PathLike, report: DataReport) -> dict[str, Annotated]:
    """Rows of the cleaned CSV by image; rows of one image are merged."""
    images: dict[str, Annotated] = {}
    for line, row in csv_rows(text, source, CSV_COLUMNS):
        image_id = row["image_name"]
        if not image_id.strip():
            raise ValueError(f"'{source}', line {line}: the image_name is empty.")
        emotions = parse_list(row["emotions"])
        if emotions is None:
            raise ValueError(
                f"'{source}', line {line}: the emotions cell is {row['emotions']!r}; expected a list of strings such "
                "as ['happy', 'curious']."
            )
        report.count("duplicate rows merged", image_id in images)
        named = {emotion.strip() for emotion in emotions} - NO_EMOTION
        image = images.setdefault(image_id, Annotated())
        image.add_caption(row["caption"])
        image.add_answer(named)
    if not images:
        raise ValueError(f"'{source}' has no row below its first line; expected {EXPECTED}.")
    report.count("images", len(images))
    report.extra["dropped_labels"] = {}
    return images
