"""emocap: which emotions a picture with its caption raises in people.

Importing the package registers its models, so that `AutoConfig`, `AutoModel`, `AutoProcessor` and
`pipeline("emotion-recognition")` know them. It loads nothing heavy until one of its names, or transformers, is asked
for.
"""

import importlib
from typing import TYPE_CHECKING

from emocap.registration import register_with_transformers

if TYPE_CHECKING:
    from emocap.data.coco import load_coco
    from emocap.data.oasis import load_oasis
    from emocap.data.own_pairs import load_pairs
    from emocap.data.photo_folder import load_photos
    from emocap.data.socratis import load_socratis
    from emocap.demo import build_demo as build_demo
    from emocap.evaluation.folder import predict_folder
    from emocap.models import (
        BottomUpConfig,
        BottomUpDetector,
        BottomUpImageProcessor,
        EmocapCaptionerConfig,
        EmocapCaptionerForConditionalGeneration,
        EmocapCaptionerProcessor,
        EmocapGridConfig,
        EmocapGridExtractor,
        EmocapImageProcessor,
        EmocapProcessor,
        EmocapRegionConfig,
        EmocapRegionExtractor,
        EmocapStudentConfig,
        EmocapStudentForMultiLabelClassification,
        EmocapTeacherConfig,
        EmocapTeacherForMultiLabelClassification,
        EmotionRecognitionPipeline,
    )
    from emocap.pseudo_labels.labelling import PseudoLabels
    from emocap.pseudo_labels.selection import select_pseudo_labels
    from emocap.records import Result
    from emocap.regions.extraction import RegionFeatures
    from emocap.scenes.corpus import load_scenes
    from emocap.steps import (
        evaluate,
        evaluate_captioner,
        finetune,
        label,
        train_captioner,
        train_student,
        train_teacher,
    )

__version__ = "0.1.0"

__all__ = [
    "BottomUpConfig",
    "BottomUpDetector",
    "BottomUpImageProcessor",
    "EmocapCaptionerConfig",
    "EmocapCaptionerForConditionalGeneration",
    "EmocapCaptionerProcessor",
    "EmocapGridConfig",
    "EmocapGridExtractor",
    "EmocapImageProcessor",
    "EmocapProcessor",
    "EmocapRegionConfig",
    "EmocapRegionExtractor",
    "EmocapStudentConfig",
    "EmocapStudentForMultiLabelClassification",
    "EmocapTeacherConfig",
    "EmocapTeacherForMultiLabelClassification",
    "EmotionRecognitionPipeline",
    "PseudoLabels",
    "RegionFeatures",
    "Result",
    "evaluate",
    "evaluate_captioner",
    "finetune",
    "label",
    "load_coco",
    "load_oasis",
    "load_pairs",
    "load_photos",
    "load_scenes",
    "load_socratis",
    "predict_folder",
    "select_pseudo_labels",
    "train_captioner",
    "train_student",
    "train_teacher",
]

HOMES = {
    "PseudoLabels": "emocap.pseudo_labels.labelling",
    "RegionFeatures": "emocap.regions.extraction",
    "Result": "emocap.records",
    "build_demo": "emocap.demo",
    "evaluate": "emocap.steps",
    "evaluate_captioner": "emocap.steps",
    "finetune": "emocap.steps",
    "label": "emocap.steps",
    "load_coco": "emocap.data.coco",
    "load_oasis": "emocap.data.oasis",
    "load_pairs": "emocap.data.own_pairs",
    "load_photos": "emocap.data.photo_folder",
    "load_scenes": "emocap.scenes.corpus",
    "load_socratis": "emocap.data.socratis",
    "predict_folder": "emocap.evaluation.folder",
    "select_pseudo_labels": "emocap.pseudo_labels.selection",
    "train_captioner": "emocap.steps",
    "train_student": "emocap.steps",
    "train_teacher": "emocap.steps",
}
"""Modules of the names that are no models; `build_demo` needs an extra, and is not in `__all__` therefore."""


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for (PEP 562)."""
    if name not in __all__ and name not in HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value = getattr(importlib.import_module(HOMES.get(name, "emocap.models")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *HOMES})


register_with_transformers()
