"""Pictures of every mode a file may have, and where their processed pixels are sampled.

Synthetic ones are made alike by the tests and by `make.py`, in lossless formats. Photographs, whose
edges, noise and compression nobody designed, lie in photographs/; README.md says whose they are.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 896
SAMPLES = 100


def _noise(key: int, shape: tuple[int, ...]) -> np.ndarray:
    raw = np.random.Philox(key=key).random_raw(math.prod(shape))
    return (raw >> np.uint64(56)).astype(np.uint8).reshape(shape)


def _scene(width: int, height: int, channels: int) -> np.ndarray:
    """[height,width,channels] uint8: slopes, a hard edge, and noise in the lower right."""
    y, x = np.mgrid[:height, :width]
    scene = np.stack(
        [(x * (c + 1) * 255 // width + y * (3 - c) * 255 // height) % 256 for c in range(channels)],
        axis=-1,
    ).astype(np.uint8)
    scene[height // 4 : height // 3] = 255 - scene[height // 4 : height // 3]
    noise = _noise(width * 10_000 + height, scene.shape)
    corner = np.s_[height // 2 :, width // 2 :]
    scene[corner] = noise[corner]
    return scene


def _palette(transparent: bool) -> Image.Image:
    image = Image.fromarray(_scene(320, 250, 1)[..., 0], "P")
    image.putpalette(_noise(9, (256, 3)).tobytes())
    if transparent:
        image.info["transparency"] = bytes(range(256))
    return image


def _turned() -> Image.Image:
    image = Image.fromarray(_scene(300, 200, 3))
    image.getexif()[0x0112] = 6  # orientation: to be turned by a quarter
    return image


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "square.png": lambda: Image.fromarray(_scene(512, 512, 3)),
    "wide.png": lambda: Image.fromarray(_scene(1000, 400, 3)),
    "tall.bmp": lambda: Image.fromarray(_scene(300, 1100, 3)),
    "large.png": lambda: Image.fromarray(_scene(1900, 1300, 3)),
    "dot.png": lambda: Image.fromarray(_scene(3, 2, 3)),
    "grey.png": lambda: Image.fromarray(_scene(640, 300, 1)[..., 0]),
    "grey_alpha.png": lambda: Image.fromarray(_scene(200, 210, 2), "LA"),
    "alpha.png": lambda: Image.fromarray(_scene(800, 300, 4), "RGBA"),
    "palette.gif": lambda: _palette(transparent=False),
    "palette_alpha.png": lambda: _palette(transparent=True),
    "ink.tiff": lambda: Image.fromarray(_scene(260, 330, 4), "CMYK"),
    "bilevel.png": lambda: Image.fromarray(_scene(260, 330, 1)[..., 0]).convert("1"),
    "turned.png": _turned,
}
"""Each by file name. turned.png is the one that `load_image` must turn first."""

PHOTOGRAPHS = ("rocket.jpg", "camera.jpg", "chelsea.png", "coffee.webp")
"""In colour, in grey, of a palette and with soft alpha, all long enough for pan and scan."""


def write_picture(name: str, folder: Path) -> Path:
    """Write the picture `name` into `folder`; returns its path."""
    if name in PHOTOGRAPHS:
        return Path(shutil.copy(Path(__file__).parent / "photographs" / name, folder))
    image = PICTURES[name]()
    extra = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    exif = {"exif": image.getexif()} if image.getexif() else {}
    image.save(folder / name, **extra, **exif)
    return folder / name


def samples(pixels: np.ndarray) -> np.ndarray:
    """[SAMPLES] of the values of [3,SIZE,SIZE] pixels, the same places always."""
    places = np.random.Philox(key=5).random_raw(SAMPLES) % np.uint64(3 * SIZE * SIZE)
    return pixels.reshape(-1)[places.astype(np.int64)]
