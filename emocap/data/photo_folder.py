"""Any folder of photos as a table of pairs without labels."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from PIL import ExifTags, Image, IptcImagePlugin

from emocap.data.schema import pair_features, to_dataset_dict
from emocap.data.storage import DataReport, attach_photos, read_text
from emocap.models.photo_emocap import PHOTO_ENDINGS

__all__ = ["build_photos", "load_photos"]

CAPTIONS = ("auto", "text", "description", "none")

IPTC_CAPTION = (2, 120)

WRITTEN_BY_CAMERAS = {
    "olympus digital camera",
    "sony dsc",
    "dcim",
    "default",
    "untitled",
    "sdc",
    "kodak digital still camera",
}
"""Descriptions that cameras put into every photo, in lower case."""


def load_photos(folder: str | os.PathLike, *, captions: str = "auto") -> DatasetDict:
    """The table of `build_photos`, without its report."""
    return build_photos(folder, captions=captions)[0]


def build_photos(folder: str | os.PathLike, *, captions: str = "auto") -> tuple[DatasetDict, DataReport]:
    """Reads every photo of a folder and of those inside it, hidden ones left out, in order of their paths.

    Args:
        folder: the folder; files that are no BMP, GIF, JPEG, PNG, TIFF or WebP by their names are counted.
        captions: "text": each line of the `.txt` file of the photo's name that lies beside it; "description": what its
            IPTC or else EXIF data describe it as; "auto": the text where there is one, else the description; "none".

    Returns:
        The split `train` of `pair_features` without labels: `image_id` is the path inside the folder. The report lists
        photos that cannot be read.

    Raises:
        FileNotFoundError: there is no such folder, or no photo in it.
        ValueError: two photos of a folder have one name but for its ending, so that a text would belong to both; or
            no photo can be read.
    """
    if captions not in CAPTIONS:
        raise ValueError(f"captions is '{captions}'; it must be one of {', '.join(CAPTIONS)}.")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no photo folder '{folder}'.")
    folder = os.fspath(folder)
    report, found, texts = DataReport(), [], set()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path, suffix = os.path.relpath(os.path.join(parent, name), folder), os.path.splitext(name)[1].lower()
            if suffix in PHOTO_ENDINGS:
                found.append(path)
            elif suffix == ".txt" and captions in ("auto", "text"):
                texts.add(path)
            else:
                report.count("other files")
    if not found:
        raise FileNotFoundError(f"There is no photo in '{folder}' (looked for {', '.join(PHOTO_ENDINGS)}).")
    found.sort()
    if captions in ("auto", "text"):
        refuse_one_stem(folder, found)
    rows: list[dict[str, Any]] = [{"image_id": path.replace(os.sep, "/"), "captions": []} for path in found]
    for row, path in zip(rows, found, strict=True):
        beside = os.path.splitext(path)[0] + ".txt"
        if beside in texts:
            texts.remove(beside)
            lines = read_text(os.path.join(folder, beside), "captions, a line each").splitlines()
            row["captions"] = [line.strip() for line in lines if line.strip()]
    report.count("texts without a photo of their name", len(texts))
    rows = [row for row in attach_photos(rows, folder, report) if row["image"] is not None or row["captions"]]
    if captions in ("auto", "description"):
        for row in rows:
            if row["image"] is not None and not row["captions"]:
                row["captions"] = descriptions(row["image"])
    if not rows:
        raise ValueError(f"No photo of '{folder}' can be read (first: {report.problems[0]['reason']}).")
    report.count("captions", sum(len(row["captions"]) for row in rows))
    report.count("photos without a caption", sum(not row["captions"] for row in rows))
    return to_dataset_dict(rows, pair_features(None), splits=["train"] * len(rows)), report


def refuse_one_stem(folder: str | os.PathLike, paths: list[str]) -> None:
    stems = Counter(os.path.splitext(path)[0] for path in paths)
    if twice := [path for path in paths if stems[os.path.splitext(path)[0]] > 1]:
        raise ValueError(
            f"'{folder}' holds photos that differ by their ending alone: {', '.join(twice[:4])}. Remove all but one, "
            "or choose --captions description or --captions none, for which no text must belong to one photo."
        )


def descriptions(path: str) -> list[str]:
    """What a photo's IPTC caption or, without one, its EXIF description says; none where a camera wrote it."""
    with Image.open(path) as photo:
        try:
            written = (IptcImagePlugin.getiptcinfo(photo) or {}).get(IPTC_CAPTION)
            written = written or photo.getexif().get(ExifTags.Base.ImageDescription)
        except Exception:  # damaged notes in a photo that can be read
            return []
    if isinstance(written, list):
        written = written[0]
    text = written.decode("utf-8", "replace") if isinstance(written, bytes) else str(written or "")
    text = " ".join(text.replace("\x00", " ").split())
    return [] if text.lower() in WRITTEN_BY_CAMERAS else [text] if text else []
