"""emocap: which emotions a picture with its caption raises in people.

Importing the package registers its models, so that `AutoConfig`, `AutoModel` and `AutoProcessor` know them.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
)

from emocap.data.coco import load_coco
from emocap.data.oasis import load_oasis
from emocap.data.scenes import load_scenes
from emocap.data.socratis import load_socratis
from emocap.models import (
    BottomUpConfig,
    BottomUpDetector,
    BottomUpImageProcessor,
    EmocapProcessor,
    EmocapRegionConfig,
    EmocapRegionExtractor,
    EmocapRegionImageProcessor,
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherConfig,
    EmocapTeacherForMultiLabelClassification,
)
from emocap.pseudo_labels import select_pseudo_labels

__version__ = "0.1.0"

__all__ = [
    "BottomUpConfig",
    "BottomUpDetector",
    "BottomUpImageProcessor",
    "EmocapProcessor",
    "EmocapRegionConfig",
    "EmocapRegionExtractor",
    "EmocapRegionImageProcessor",
    "EmocapStudentConfig",
    "EmocapStudentForMultiLabelClassification",
    "EmocapTeacherConfig",
    "EmocapTeacherForMultiLabelClassification",
    "load_coco",
    "load_oasis",
    "load_scenes",
    "load_socratis",
    "select_pseudo_labels",
]

for config_class, model_class in (
    (EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification),
    (EmocapStudentConfig, EmocapStudentForMultiLabelClassification),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    AutoModelForSequenceClassification.register(config_class, model_class, exist_ok=True)
    AutoProcessor.register(config_class, EmocapProcessor, exist_ok=True)
for config_class, model_class, processor_class in (
    (EmocapRegionConfig, EmocapRegionExtractor, EmocapRegionImageProcessor),
    (BottomUpConfig, BottomUpDetector, BottomUpImageProcessor),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    AutoImageProcessor.register(config_class, image_processor_classes={"torchvision": processor_class}, exist_ok=True)
