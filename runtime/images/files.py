"""Picture files to normalised pixels, as transformers' Gemma 3 image processor makes them.

Decoding needs Pillow, the extra `vision`; it is imported on first use, so that a host without
pictures needs no Pillow. `.npy` files need numpy alone.

Followed: transformers 5.23, `image_processing_pil_gemma3.py` for the pixels (what is transparent
is laid over white) and `image_utils.load_image` for the file (turned upright by its EXIF
orientation). One thing is done otherwise: 16-bit greys keep their upper 8 bits, where Pillow's
conversion, which transformers relies on, makes everything above 255 white.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...artifacts.errors import UsageError, argument

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a rectangle of pixels; right and bottom are outside it."""

MOST_PIXELS = 178_956_970
"""Pictures with more pixels are refused unread: half a gigabyte once decoded. Pillow's limit."""

# Formats without interpreters or helpers behind them (EPS would start Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# Of pan and scan, as Gemma3Processor sets them.
_LEAST_CROP = 256
_MOST_CROPS = 4
_LEAST_RATIO = 1.2

_SLACK = 1e-3  # how far beyond -1..1 arrays computed elsewhere may round
IMAGES = argument("images", "--image")


@dataclass(frozen=True)
class Picture:
    """One image of a prompt: its pixels, and after them those of its crops.

    pixels: [1 + crops, 3, size, size] float32 in -1..1.
    """

    pixels: np.ndarray

    @property
    def crops(self) -> int:
        """How many pan and scan crops follow the whole picture."""
        return len(self.pixels) - 1


def pixels_of(pictures: Sequence[Picture]) -> list[np.ndarray]:
    """The pixels of one prompt's images, as a request takes them; none for none."""
    return [np.concatenate([picture.pixels for picture in pictures])] if pictures else []


def load_images(paths: Sequence[Path], size: int, pan_and_scan: bool = False) -> list[Picture]:
    """The images of files, in order; a `.npy` file may bring several.

    Args:
        paths: pictures (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM; of several frames the first), or
            `.npy` files with finished pixels [N,3,size,size] float32 in -1..1.
        size: side of the images the model looks at (vision_config.image_size).
        pan_and_scan: follow long pictures by crops of them; arrays are never cropped.

    Raises UsageError for a file that cannot be read, is no such picture, is damaged or too
    large, for an array that is not as described, and when Pillow is needed and missing.
    """
    pictures: list[Picture] = []
    for path in paths:
        if path.suffix.lower() == ".npy":
            pictures += [Picture(one[None]) for one in load_pixels(path, size)]
        else:
            pictures.append(process(load_rgb(path), size, pan_and_scan))
    return pictures


def load_pixels(path: Path, size: int) -> np.ndarray:
    """Normalised pixels [N,3,size,size] float32 in -1..1 from a `.npy` file; see load_images."""
    try:
        # Mapped: a header that promises more than the file has is refused, not allocated.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UsageError(_unreadable(path, error)) from error
    except Exception as error:  # the header is Python source to numpy, with all its errors
        raise UsageError(
            f"{path}: not a whole .npy array; expected pixels [N,3,{size},{size}] float32; "
            "save them with numpy.save, or pass a picture"
        ) from error
    if not isinstance(mapped, np.ndarray):  # an .npz archive under another name
        mapped.close()
        raise UsageError(
            f"{path}: holds several arrays; {_expected(size)}; save one with numpy.save"
        )
    return check_pixels(str(path), mapped, size)


def _expected(size: int) -> str:
    return f"expected pixels [N,3,{size},{size}] float32 in -1..1"


def check_pixels(path: str, mapped: np.ndarray, size: int) -> np.ndarray:
    """A copy of normalised pixels [N,3,size,size] float32 in -1..1; `path` is what errors name.

    Raises:
        UsageError: they are not such pixels.
    """
    expected = _expected(size)
    if mapped.dtype != np.float32:
        raise UsageError(f"{path}: {expected}, got dtype {mapped.dtype}; convert with astype")
    if mapped.ndim != 4 or mapped.shape[0] < 1 or mapped.shape[1:] != (3, size, size):
        shape = ",".join(map(str, mapped.shape))
        raise UsageError(f"{path}: {expected}, got shape [{shape}]; resize, or pass the picture")
    pixels = np.array(mapped)
    if not np.isfinite(pixels).all():
        raise UsageError(f"{path}: {expected}, got NaN or infinity; fix the array")
    if np.abs(pixels).max() > 1 + _SLACK:
        low, high = pixels.min(), pixels.max()
        raise UsageError(
            f"{path}: {expected}, got {low:.4g}..{high:.4g}; normalise bytes as x / 127.5 - 1"
        )
    return pixels


def load_rgb(path: Path) -> Image.Image:
    """The picture in a file: upright, RGB, what is transparent over white; see load_images."""
    image_module = _pillow()
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and odd metadata; what we refuse, we say ourselves.
            warnings.simplefilter("ignore")
            with image_module.open(path, formats=_FORMATS) as opened:
                _check_size(path, opened.width * opened.height)
                opened.load()
                return _to_rgb(ImageOps.exif_transpose(opened))
    except UsageError:
        raise
    except image_module.DecompressionBombError as error:
        raise UsageError(_too_large(path, "more")) from error
    except image_module.UnidentifiedImageError as error:
        raise UsageError(
            f"{path}: not a picture; expected one of {', '.join(_FORMATS)}, or a .npy array; "
            "check the file, or convert it"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise UsageError(_unreadable(path, error)) from error
        raise UsageError(_damaged(path, error)) from error
    except Exception as error:  # a decoder raises whatever it stumbles over
        raise UsageError(_damaged(path, error)) from error


def process(image: Image.Image, size: int, pan_and_scan: bool = False) -> Picture:
    """Normalised pixels of an RGB picture, and of its crops where pan and scan asks for them."""
    boxes = crop_boxes(image.width, image.height) if pan_and_scan else []
    views = [image, *(image.crop(box) for box in boxes)]
    return Picture(np.stack([_normalised(view, size) for view in views]))


def crop_boxes(width: int, height: int) -> list[Box]:
    """Pan and scan: the parts a long picture is shown in besides the whole, in reading order.

    Empty unless the long side is at least 1.2 times the short one and every part would be at
    least 256 pixels on each side.
    """
    long, short = max(width, height), min(width, height)
    if long / short < _LEAST_RATIO:
        return []
    count = min(math.floor(long / _LEAST_CROP), math.floor(long / short + 0.5))
    count = min(_MOST_CROPS, max(2, count))
    columns, rows = (count, 1) if width >= height else (1, count)
    wide, tall = math.ceil(width / columns), math.ceil(height / rows)
    if min(wide, tall) < _LEAST_CROP:
        return []
    return [
        (x, y, min(x + wide, width), min(y + tall, height))
        for y, x in itertools.product(range(0, tall * rows, tall), range(0, wide * columns, wide))
    ]


def _normalised(image: Image.Image, size: int) -> np.ndarray:
    """[3,size,size] float32 in -1..1; the aspect is not kept."""
    resized = image.resize((size, size), _pillow().Resampling.BILINEAR)  # antialiased
    # Rounded where transformers rounds: after the division, in float32.
    unit = (np.asarray(resized).astype(np.float64) * (1 / 255)).astype(np.float32)
    return np.ascontiguousarray(((unit - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    image_module = _pillow()
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF)
        return image_module.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    white = image_module.new("RGBA", shown.size, (255, 255, 255, 255))
    return image_module.alpha_composite(white, shown).convert("RGB")


def _pillow():
    """Pillow's Image module; UsageError naming the extra when it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            "pictures need Pillow, which is not installed; pip install 'gemma3-export[vision]', "
            "or pass normalised pixels as .npy"
        ) from error
    return Image


def _check_size(path: Path, pixels: int) -> None:
    if pixels > MOST_PIXELS:
        raise UsageError(_too_large(path, str(pixels)))


def _too_large(path: Path, got: str) -> str:
    return (
        f"{path}: picture is too large: expected at most {MOST_PIXELS} pixels, got {got}; "
        "make it smaller first"
    )


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read: {error.strerror or error}; check {IMAGES}"


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).rstrip(".") or type(error).__name__
    return f"{path}: picture is damaged or cut short ({reason}); get the file again"
