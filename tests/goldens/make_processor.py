"""Goldens of the image processor and of prompts with images, from transformers."""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

from .pictures import PHOTOGRAPHS, PICTURES, SIZE, samples, write_picture
from .reference import versions

PAN_AND_SCAN = {
    "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
EDGES = (
    1,
    255,
    256,
    257,
    400,
    501,
    511,
    512,
    513,
    600,
    614,
    615,
    767,
    768,
    769,
    1001,
    1279,
    1500,
    2047,
)


def make_processor() -> dict[str, Any]:
    """Content of data/processor.json."""
    half = [0.5, 0.5, 0.5]
    processor = Gemma3ImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half, **PAN_AND_SCAN
    )
    with tempfile.TemporaryDirectory() as folder:
        pictures = [_picture(processor, name, Path(folder)) for name in (*PICTURES, *PHOTOGRAPHS)]
    boxes = [[w, h, _boxes(processor, w, h)] for w in EDGES for h in EDGES]
    return {
        "versions": versions() | {"pillow": importlib.metadata.version("pillow")},
        "pictures": pictures,
        "boxes": [entry for entry in boxes if entry[2]],
        "uncropped": [[w, h] for w, h, found in boxes if not found],
        "prompts": [_image_text(crops) for crops in (0, 2, 3)],
    }


def _picture(processor: Gemma3ImageProcessorPil, name: str, folder: Path) -> dict[str, Any]:
    image = ImageOps.exif_transpose(Image.open(write_picture(name, folder)))
    entry: dict[str, Any] = {"name": name}
    for key, pan_and_scan in (("whole", False), ("cropped", True)):
        out = processor(image, do_pan_and_scan=pan_and_scan, return_tensors="np")
        pixels = np.asarray(out["pixel_values"])
        assert len(pixels) == 1 + int(out["num_crops"][0])
        entry[key] = [[round(float(x), 5) for x in samples(one)] for one in pixels]
    print(f"{name}: {len(entry['cropped']) - 1} crops", flush=True)
    return entry


def _boxes(processor: Gemma3ImageProcessorPil, width: int, height: int) -> list[list[int]]:
    """The crops' edges, read off a picture whose pixels say where they are."""
    places = np.stack(np.broadcast_arrays(np.arange(width)[None], np.arange(height)[:, None]))
    crops = processor.pan_and_scan(places, *PAN_AND_SCAN.values())
    return [
        [int(c[0, 0, 0]), int(c[1, 0, 0]), int(c[0, -1, -1]) + 1, int(c[1, -1, -1]) + 1]
        for c in crops
    ]


def _image_text(crops: int) -> dict[str, Any]:
    """What an image placeholder becomes; an image is written with two soft tokens."""
    image = "\n\n<start_of_image><image_soft_token><image_soft_token><end_of_image>\n\n"
    processor = cast(Gemma3Processor, SimpleNamespace(full_image_sequence=image))
    text = Gemma3Processor.replace_image_token(processor, {"num_crops": [crops]}, 0)
    return {"crops": crops, "text": text}
