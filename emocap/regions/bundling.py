"""The region extractor inside a teacher's checkpoint, which then reads photos wherever it is put."""

import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from emocap.models import EmocapProcessor
from emocap.models.processing_emocap import load_region_extractor
from emocap.regions.extraction import SCENES_DETECTOR

__all__ = ["BUNDLED", "bundle_extractor", "find_extractor"]

BUNDLED = "extractor"
"""Its folder within a checkpoint."""

ENCODER = "vision:"
"""Before the folder or Hub id of a vision encoder."""


def find_extractor(name: str) -> str:
    """Folder, Hub id, `torchvision:NAME` or `vision:ID` of an extractor; `scenes` is the folder of the built-in one.

    Raises:
        ValueError: it is none of these.
    """
    if name == "scenes":
        return str(SCENES_DETECTOR)
    place = name.removeprefix(ENCODER)
    if not os.path.isdir(place) and not name.startswith("torchvision:"):
        try:
            validate_repo_id(place)
        except HFValidationError as error:
            raise ValueError(
                f"There is no region extractor at '{name}'; expected a folder, a Hub id such as owner/name, 'scenes', "
                "torchvision:NAME, or vision: before the folder or Hub id of a vision encoder."
            ) from error
    return name


def bundle_extractor(config: PreTrainedConfig, processor: EmocapProcessor, output_dir: Path) -> None:
    """Copies an extractor that lies in a folder, or is made of an encoder there, into the checkpoint in `output_dir`,
    and names it by its place there.

    One that is named by a Hub id, or none, stays as it is.
    """
    if processor.region_extractor is None:
        return
    source, _ = processor.locate_extractor()
    place = source.removeprefix(ENCODER)
    if not os.path.isdir(place):
        return
    target = output_dir / BUNDLED
    if not (target.is_dir() and target.samefile(place)):
        load_region_extractor(source).save_pretrained(target)
    processor.region_extractor = config.region_extractor = f"./{BUNDLED}"
    processor.name_or_path = str(output_dir)
