"""Any photo that PIL opens as an upright 8-bit RGB picture."""

import numpy as np
from PIL import Image, ImageOps

__all__ = ["resize_to_array", "to_rgb"]


def to_rgb(photo: Image.Image) -> Image.Image:
    """Upright RGB picture with 8 bits a channel.

    EXIF rotation is applied; transparency is laid over white; 16-bit and floating-point greys are scaled to 8 bits
    (16-bit by 257, floats from their own range); CMYK, palette and greyscale are converted.
    """
    photo = ImageOps.exif_transpose(photo)
    if photo.mode.startswith("I"):
        values = np.asarray(photo).astype(np.int64)
        deep = photo.mode != "I" or values.max() > 255  # "I" holds 8 bits as well as 16
        photo = Image.fromarray((values // 257 if deep else values).clip(0, 255).astype(np.uint8))
    elif photo.mode == "F":
        values = np.nan_to_num(np.asarray(photo))
        spread = values.max() - values.min()
        photo = Image.fromarray(((values - values.min()) / (spread or 1) * 255).astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def resize_to_array(photo: Image.Image, size: int) -> np.ndarray:
    """Square uint8 array `(3, size, size)` of a photo, resized bilinearly without keeping the aspect ratio.

    A JPEG that was not read yet is decoded at the smallest scale that still covers `size`.
    """
    photo.draft("RGB", (size, size))
    resized = to_rgb(photo).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized).transpose(2, 0, 1)
