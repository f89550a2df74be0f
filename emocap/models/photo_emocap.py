"""Anything that holds a photo, as an upright 8-bit RGB picture."""

import http.client
import io
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict

__all__ = [
    "PHOTO_ENDINGS",
    "EmocapImageProcessor",
    "as_list",
    "open_photo",
    "photos_in_folder",
    "resize_to_array",
    "to_rgb",
]

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Which files of a folder are photos, in small or capital letters."""

FETCH_SECONDS = 20.0
MAX_FETCHED_BYTES = 50 * 2**20


class EmocapImageProcessor(TorchvisionBackend):
    """RGB pixels of photos of every kind: see `open_photo` for what comes in, and `to_rgb` for what is made of it.

    `pixel_values` is uint8 0..255 `(batch, 3, height, width)`, or without `size`, where the photos differ in theirs, a
    list of one `(3, height, width)` a photo. Normalising is part of the networks that read them.

    Args:
        do_convert_rgb: False keeps an array's or tensor's own channels and values.
        size: one side in pixels, or `height` and `width`, to which photos are squeezed; None leaves each at its own.
        do_rescale: multiply by `rescale_factor`, which makes floats: 0..1 with its default, which the networks read
            as well.
    """

    do_rescale = False
    do_convert_rgb = True
    model_input_names = ["pixel_values"]

    def _prepare_images_structure(self, images: object, expected_ndims: int = 3) -> list:
        return as_list(images)

    def process_image(
        self,
        image: object,
        size: SizeDict | None = None,
        input_data_format: str | None = None,
        do_convert_rgb: bool = True,
        device: str | torch.device | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """`(3, height, width)` uint8 of one photo at its final size; with `do_convert_rgb=False` its own channels."""
        if not do_convert_rgb:
            pixels = super().process_image(image, False, input_data_format, device)
            return pixels if size is None else self.resize(pixels, size)
        photo = open_photo(image, input_data_format)
        if size is None:
            pixels = np.asarray(to_rgb(photo)).transpose(2, 0, 1)
        else:
            pixels = resize_to_array(photo, (size.height, size.width))
        return torch.tensor(pixels, device=device)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        do_rescale: bool,
        rescale_factor: float,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        if do_rescale:
            images = [image * rescale_factor for image in images]
        if len({image.shape for image in images}) > 1:
            return BatchFeature({"pixel_values": images})
        return BatchFeature({"pixel_values": torch.stack(images)}, tensor_type=return_tensors)


EmocapImageProcessor.register_for_auto_class("AutoImageProcessor")


def as_list(images: Any) -> list:
    """The photos of a batch: one that came alone, a sequence, or an array with an axis of photos before its three. A
    sequence may hold each in a list of its own, empty where there is none, as transformers groups photos by text."""
    is_array = isinstance(images, (np.ndarray, torch.Tensor))
    alone = images.ndim <= 3 if is_array else isinstance(images, (Image.Image, str, os.PathLike))
    photos = [images] if alone else list(images)
    return [(own or [None])[0] if isinstance(own, (list, tuple)) and len(own) < 2 else own for own in photos]


def open_photo(
    photo: Image.Image | str | os.PathLike | np.ndarray | torch.Tensor, input_data_format: str | None = None
) -> Image.Image:
    """A decoded PIL image.

    Args:
        photo: a PIL image; a path; an http(s) URL, read within 20 s and 50 MiB; an array or tensor with 1, 3 or 4
            channels or none, uint8 or other integers 0..255, bool, or floats 0..1. Where both its first and its last
            axis could be the channels, an array is `(height, width, channels)` and a tensor
            `(channels, height, width)`, unless `input_data_format` says otherwise.
        input_data_format: "channels_first" or "channels_last", for arrays and tensors of three axes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be fetched or decoded, or is none of these.
    """
    if isinstance(photo, (np.ndarray, torch.Tensor)):
        return photo_of_array(photo, input_data_format)
    if isinstance(photo, Image.Image):
        return decoded(photo, getattr(photo, "filename", "") or "PIL image")
    if isinstance(photo, str) and "://" in photo:
        return decoded(io.BytesIO(fetch(photo)), shown(photo))
    if not isinstance(photo, (str, os.PathLike)):
        raise ValueError(
            f"A photo came as {type(photo).__name__}; expected a PIL image, a path, an http(s) URL, an array or a "
            "tensor."
        )
    if not os.path.isfile(photo):
        raise FileNotFoundError(f"There is no photo at '{photo}'.")
    return decoded(photo, photo)


def decoded(source: Image.Image | str | os.PathLike | io.BytesIO, name: str | os.PathLike) -> Image.Image:
    try:
        photo = source if isinstance(source, Image.Image) else Image.open(source)
        photo.load()
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise ValueError(f"The photo '{name}' cannot be read: {error}") from error
    return photo


def photo_of_array(values: np.ndarray | torch.Tensor, input_data_format: str | None = None) -> Image.Image:
    """See `open_photo`."""
    shape, is_tensor = tuple(values.shape), isinstance(values, torch.Tensor)
    allowed = {"channels_first": (0,), "channels_last": (2,), None: (0, 2)}[input_data_format]
    channel_axes = [axis for axis in allowed if len(shape) == 3 and shape[axis] in (1, 3, 4)]
    if 0 in shape or not (len(shape) == 2 or channel_axes):
        raise ValueError(
            f"An array of shape {shape} came as a photo; expected (height, width, channels), (channels, height, "
            "width) or (height, width), with 1, 3 or 4 channels."
        )
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    if channel_axes and channel_axes[0 if is_tensor else -1] == 0:
        values = values.transpose(1, 2, 0)
    if values.dtype != np.uint8:
        values = as_bytes(values)
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """uint8 0..255 of floats 0..1, of bools, or of other integers 0..255."""
    is_float = np.issubdtype(values.dtype, np.floating)
    scale = 255 if is_float or values.dtype == bool else 1
    if not (is_float or values.dtype == bool or np.issubdtype(values.dtype, np.integer)):
        raise ValueError(f"A photo came as an array of {values.dtype}; expected uint8 0..255 or floats 0..1.")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255 / scale):  # NaN fails too
        raise ValueError(
            f"A photo came as an array of {values.dtype} from {low} to {high}; expected uint8 0..255 or floats 0..1."
        )
    return np.rint(values.astype(np.float64) * scale).astype(np.uint8)


def fetch(url: str) -> bytes:
    """The bytes at an http(s) URL; redirects lead to http(s) only.

    Raises:
        ValueError: another scheme, no answer in time, too many bytes, or an error of the server.
    """
    if urllib.parse.urlsplit(url).scheme.lower() not in ("http", "https"):
        raise ValueError(f"The photo '{shown(url)}' cannot be fetched: only http and https addresses are.")
    opener = urllib.request.OpenerDirector()  # unlike build_opener's, without file, ftp and data
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    request, deadline = urllib.request.Request(url, headers={"User-Agent": "emocap"}), time.monotonic() + FETCH_SECONDS
    content = bytearray()
    try:
        with opener.open(request, timeout=FETCH_SECONDS) as response:
            while piece := response.read1(2**16):
                content += piece
                if len(content) > MAX_FETCHED_BYTES:
                    raise ValueError(f"it has more than {MAX_FETCHED_BYTES} bytes")
                if time.monotonic() > deadline:  # a timeout of the socket starts anew with each piece
                    raise ValueError(f"it takes more than {FETCH_SECONDS:g} s")
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise ValueError(f"The photo '{shown(url)}' cannot be fetched: {error}") from None
    return bytes(content)


def shown(url: str) -> str:
    """The URL without user, password and query, which may hold secrets."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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


def resize_to_array(photo: Image.Image, size: int | tuple[int, int]) -> np.ndarray:
    """uint8 array `(3, height, width)` of a photo, resized bilinearly without keeping the aspect ratio.

    A JPEG that was not read yet is decoded at the smallest scale that still covers `size`, one side of a square or
    height and width.
    """
    height, width = (size, size) if isinstance(size, int) else size
    photo.draft("RGB", (width, height))
    resized = to_rgb(photo).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized).transpose(2, 0, 1)


def photos_in_folder(folder: str | os.PathLike) -> list[dict[str, str | None]]:
    """The photos of a folder and of the folders in it, sorted by path, each as `{"image": path, "text": caption}`.

    The caption is what a UTF-8 file `.txt` of the same name beside the photo says, in one line; None without one.
    What lies in hidden folders, or is hidden itself, is passed over.

    Raises:
        FileNotFoundError: there is no such folder, or no photo in it.
        ValueError: a caption that is not UTF-8.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder '{folder}'.")
    found = [
        path
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix.lower() in PHOTO_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not found:
        raise FileNotFoundError(f"There is no photo in '{folder}' (files that end in {', '.join(PHOTO_ENDINGS)}).")
    return [{"image": str(path), "text": caption_beside(path)} for path in found]


def caption_beside(photo: Path) -> str | None:
    path = photo.with_suffix(".txt")
    try:
        return " ".join(path.read_text("utf-8-sig").split()) or None if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"The caption '{path}' is not UTF-8 ({error.reason}).") from None
