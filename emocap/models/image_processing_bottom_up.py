"""Photos as the bottom-up detector wants them."""

import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict

from .photo_emocap import to_rgb

__all__ = ["BottomUpImageProcessor", "resized_size"]

SMALLEST_SIDE = 3
"""Pixels that the stem's max-pooling needs."""


class BottomUpImageProcessor(TorchvisionBackend):
    """Resizes, turns RGB to BGR, subtracts the means, divides, and pads with 0 at the bottom and on the right.

    Takes one or several PIL photos of any mode, or RGB arrays or tensors 0..255. Gives `pixel_values` float32
    `(batch, 3, height, width)` and `image_sizes` int64 `(batch, 2)`, height and width before padding.

    Args:
        size: `shortest_edge` in pixels, and `longest_edge` that wins where both cannot be had.
        image_mean: means of the blue, green and red channel, 0..255.
        image_std: divisors of the blue, green and red channel.
    """

    size = {"shortest_edge": 800, "longest_edge": 1333}
    default_to_square = False
    image_mean = (102.9801, 115.9465, 122.7717)
    image_std = (1.0, 1.0, 1.0)
    do_convert_rgb = True
    model_input_names = ["pixel_values", "image_sizes"]

    def process_image(self, image, **kwargs) -> torch.Tensor:
        """RGB tensor `(3, height, width)` of one photo."""
        return super().process_image(to_rgb(image) if isinstance(image, Image.Image) else image, **kwargs)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        size: SizeDict,
        image_mean: tuple[float, ...],
        image_std: tuple[float, ...],
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        resized = [self._resize_and_normalize(image, size, image_mean, image_std) for image in images]
        image_sizes = torch.tensor([image.shape[1:] for image in resized])
        height, width = image_sizes.amax(0).tolist()
        pixel_values = torch.stack(
            [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in resized]
        )
        return BatchFeature({"pixel_values": pixel_values, "image_sizes": image_sizes}, tensor_type=return_tensors)

    def _resize_and_normalize(self, image, size: SizeDict, image_mean, image_std) -> torch.Tensor:
        new_size = resized_size(image.shape[1], image.shape[2], size.shortest_edge, size.longest_edge)
        pixels = image.flip(0).float().unsqueeze(0)
        pixels = F.interpolate(pixels, new_size, mode="bilinear", align_corners=False, antialias=False)[0]
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (image_mean, image_std))
        return (pixels - mean) / std


BottomUpImageProcessor.register_for_auto_class("AutoImageProcessor")


def resized_size(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """Height and width of a photo whose short side becomes `shortest_edge`, its long side `longest_edge` at most.

    Rounded and scaled twice as in the published code. A strip of a photo keeps the few pixels that the network needs.
    """
    scale = shortest_edge / min(height, width)
    new_height, new_width = (shortest_edge, scale * width) if height < width else (scale * height, shortest_edge)
    if max(new_height, new_width) > longest_edge:
        scale = longest_edge / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return max(SMALLEST_SIDE, int(new_height + 0.5)), max(SMALLEST_SIDE, int(new_width + 0.5))
