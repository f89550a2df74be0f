"""emocap: which emotions a picture with its caption raises in people.

Importing the package registers its models, so that `AutoConfig`, `AutoModel`, `AutoProcessor` and
`pipeline("emotion-recognition")` know them.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

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
    EmotionRecognitionPipeline,
)
from emocap.pseudo_labels.selection import select_pseudo_labels

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
    "EmotionRecognitionPipeline",
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
if "emotion-recognition" not in PIPELINE_REGISTRY.supported_tasks:
    PIPELINE_REGISTRY.register_pipeline(
        "emotion-recognition", pipeline_class=EmotionRecognitionPipeline, pt_model=AutoModel, type="multimodal"
    )
