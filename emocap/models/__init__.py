"""Teacher, student, captioner, region extractors and their processors: flat files that travel with every checkpoint.

Importing the package registers them with transformers' auto classes and pipelines.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoProcessor,
    ViTImageProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_bottom_up import BottomUpConfig
from .configuration_emocap_captioner import EmocapCaptionerConfig
from .configuration_emocap_grid import EmocapGridConfig
from .configuration_emocap_regions import EmocapRegionConfig
from .configuration_emocap_student import EmocapStudentConfig
from .configuration_emocap_teacher import EmocapTeacherConfig
from .image_processing_bottom_up import BottomUpImageProcessor
from .modeling_bottom_up import BottomUpDetector
from .modeling_emocap_captioner import EmocapCaptionerForConditionalGeneration
from .modeling_emocap_grid import EmocapGridExtractor
from .modeling_emocap_regions import EmocapRegionExtractor
from .modeling_emocap_student import EmocapStudentForMultiLabelClassification
from .modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification
from .photo_emocap import EmocapImageProcessor
from .pipeline_emocap import EmotionRecognitionPipeline
from .processing_emocap import EmocapProcessor
from .processing_emocap_captioner import EmocapCaptionerProcessor
from .region_output_emocap import RegionOutput

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
    "RegionOutput",
]

for config_class, model_class in (
    (EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification),
    (EmocapStudentConfig, EmocapStudentForMultiLabelClassification),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    AutoModelForSequenceClassification.register(config_class, model_class, exist_ok=True)
    AutoProcessor.register(config_class, EmocapProcessor, exist_ok=True)
AutoConfig.register(EmocapCaptionerConfig.model_type, EmocapCaptionerConfig, exist_ok=True)
for auto_class in (AutoModel, AutoModelForImageTextToText):
    auto_class.register(EmocapCaptionerConfig, EmocapCaptionerForConditionalGeneration, exist_ok=True)
AutoProcessor.register(EmocapCaptionerConfig, EmocapCaptionerProcessor, exist_ok=True)
for config_class, model_class, processor_class in (
    (EmocapRegionConfig, EmocapRegionExtractor, EmocapImageProcessor),
    (EmocapGridConfig, EmocapGridExtractor, ViTImageProcessor),
    (BottomUpConfig, BottomUpDetector, BottomUpImageProcessor),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
    AutoImageProcessor.register(config_class, image_processor_classes={"torchvision": processor_class}, exist_ok=True)
AutoImageProcessor.register(
    EmocapStudentConfig, image_processor_classes={"torchvision": EmocapImageProcessor}, exist_ok=True
)
if "emotion-recognition" not in PIPELINE_REGISTRY.supported_tasks:
    PIPELINE_REGISTRY.register_pipeline(
        "emotion-recognition", pipeline_class=EmotionRecognitionPipeline, pt_model=AutoModel, type="multimodal"
    )
