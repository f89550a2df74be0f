"""Photos as the small region extractor wants them."""

import numpy as np
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .photo_emocap import resize_to_array

__all__ = ["EmocapRegionImageProcessor"]


class EmocapRegionImageProcessor(BaseImageProcessor):
    """Resizes PIL photos of any mode to `pixel_values` uint8 `(batch, 3, size, size)`.

    Args:
        size: side in pixels.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, size: int = 96, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def preprocess(self, images, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        photos = list(images) if isinstance(images, (list, tuple)) else [images]
        pixels = np.stack([resize_to_array(photo, self.size) for photo in photos])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)


EmocapRegionImageProcessor.register_for_auto_class("AutoImageProcessor")
