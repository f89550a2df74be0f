"""Teacher, student, region extractor and their processor: flat files that travel with every checkpoint."""

from .configuration_bottom_up import BottomUpConfig
from .configuration_emocap_regions import EmocapRegionConfig
from .configuration_emocap_student import EmocapStudentConfig
from .configuration_emocap_teacher import EmocapTeacherConfig
from .image_processing_bottom_up import BottomUpImageProcessor
from .image_processing_emocap_regions import EmocapRegionImageProcessor
from .modeling_bottom_up import BottomUpDetector
from .modeling_emocap_regions import EmocapRegionExtractor, RegionOutput
from .modeling_emocap_student import EmocapStudentForMultiLabelClassification
from .modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification
from .pipeline_emocap import EmotionRecognitionPipeline
from .processing_emocap import EmocapProcessor

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
    "RegionOutput",
]
