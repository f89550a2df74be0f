"""Photos as the region extractor wants them."""

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .photo_emocap import resize_to_array, to_rgb

__all__ = ["EmocapRegionImageProcessor"]


class EmocapRegionImageProcessor(BaseImageProcessor):
    """Makes RGB pixels of PIL photos of any mode; scaling to a network's own size and normalising are part of it.

    `pixel_values` is uint8 `(batch, 3, size, size)`, or without `size` a list of one `(3, height, width)` a photo.

    Args:
        size: side in pixels to which photos are squeezed; None leaves each at its own size.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, size: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def preprocess(self, images, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        photos = list(images) if isinstance(images, (list, tuple)) else [images]
        if self.size is None:
            return BatchFeature({"pixel_values": [torch.tensor(own_pixels(photo)) for photo in photos]})
        pixels = np.stack([resize_to_array(photo, self.size) for photo in photos])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)


def own_pixels(photo: Image.Image) -> np.ndarray:
    return np.asarray(to_rgb(photo)).transpose(2, 0, 1)


EmocapRegionImageProcessor.register_for_auto_class("AutoImageProcessor")
