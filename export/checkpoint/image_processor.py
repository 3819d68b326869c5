"""How a folder says that pictures become pixels; the runtimes know one way.

Source: transformers `Gemma3ImageProcessor`: its fields, which file they are read from, and the
defaults of `Gemma3Processor`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from ...artifacts.errors import ArtifactError
from ...model.vision_config import Gemma3Config
from ..arguments import NO_IMAGES
from .base import read_json

_NESTED, _PLAIN = "processor_config.json", "preprocessor_config.json"
_KINDS = ("Gemma3ImageProcessor", "Gemma3ImageProcessorFast", "Gemma3ImageProcessorPil")
_BILINEAR = 2
"""Pillow's number."""
_FIXED: dict[str, Any] = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
    "resample": _BILINEAR, "rescale_factor": 1 / 255,
    "image_mean": 0.5, "image_std": 0.5,
    # --pan-and-scan asks for it, with these numbers.
    "do_pan_and_scan": False, "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4, "pan_and_scan_min_ratio_to_activate": 1.2,
}  # fmt: skip
"""What the runtimes do; null and nothing are these values too."""


def check_image_processor(folder: Path, vision: Gemma3Config) -> None:
    """Refuse a folder whose pictures become other pixels, or another number of soft tokens.

    Raises:
        ArtifactError: names the file and the field.
    """
    nested = _read(folder / _NESTED)
    tokens = nested.get("image_seq_length")
    if tokens not in (None, vision.mm_tokens_per_image):
        _refuse(folder / _NESTED, "image_seq_length", vision.mm_tokens_per_image, tokens)
    inner = nested.get("image_processor")
    path = folder / (_PLAIN if inner is None else _NESTED)
    fields = _read(path) if inner is None else inner
    if not isinstance(fields, dict):
        _refuse(path, "image_processor", "an object", fields)
    kind = fields.get("image_processor_type")
    if kind is not None and kind not in _KINDS:
        _refuse(path, "image_processor_type", " or ".join(_KINDS), kind)
    for name, expected in _FIXED.items():
        if not _is(fields.get(name), expected):
            _refuse(path, name, expected, fields[name])
    side = vision.vision_config.image_size
    size = fields.get("size")
    if size not in (None, {"height": side, "width": side}):
        _refuse(path, "size", f"a height and width of {side}, the image_size of config.json", size)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _is(value: Any, expected: float | bool) -> bool:
    """Whether a field is absent, null or the expected one; a list is of one for each channel."""
    if value is None:
        return True
    values = value if isinstance(value, list) else [value]
    if isinstance(expected, bool):
        return value is expected
    return len(values) in (1, 3) and all(
        type(one) in (int, float) and abs(one - expected) <= 1e-9 for one in values
    )


def _refuse(path: Path, name: str, expected: object, got: object) -> NoReturn:
    raise ArtifactError(
        f"{path}: {name}: expected {expected}, as the runtimes make pixels of pictures, got "
        f"{repr(got)[:80]}; pass {NO_IMAGES}, or a checkpoint of Gemma's own way"
    )
