"""Teacher, student, region extractor and their processor: flat files that travel with every checkpoint."""

from .configuration_emocap_regions import EmocapRegionConfig
from .configuration_emocap_student import EmocapStudentConfig
from .configuration_emocap_teacher import EmocapTeacherConfig
from .modeling_emocap_regions import EmocapRegionExtractor, RegionOutput
from .modeling_emocap_student import EmocapStudentForMultiLabelClassification
from .modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification
from .processing_emocap import EmocapProcessor

__all__ = [
    "EmocapProcessor",
    "EmocapRegionConfig",
    "EmocapRegionExtractor",
    "EmocapStudentConfig",
    "EmocapStudentForMultiLabelClassification",
    "EmocapTeacherConfig",
    "EmocapTeacherForMultiLabelClassification",
    "RegionOutput",
]
