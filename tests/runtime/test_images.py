"""Pictures to pixels: as transformers makes them, and one line for what is not a picture."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.images.files import (
    MOST_PIXELS,
    crop_boxes,
    load_images,
    load_pixels,
    load_rgb,
    process,
)
from PIL import Image

from ..goldens.loader import processor_goldens
from ..goldens.pictures import PHOTOGRAPHS, PICTURES, SIZE, samples, write_picture

CLOSE = 2 / 255 * 2  # two levels of a byte, where black to white is -1..1


@pytest.fixture
def png(tmp_path: Path) -> Path:
    return write_picture("dot.png", tmp_path)


@pytest.mark.parametrize("golden", processor_goldens().pictures, ids=lambda golden: golden.name)
def test_pixels_are_those_of_transformers(golden, tmp_path: Path):
    path = write_picture(golden.name, tmp_path)
    for pan_and_scan, expected in ((False, golden.whole), (True, golden.cropped)):
        (picture,) = load_images([path], SIZE, pan_and_scan)
        assert picture.pixels.shape == (len(expected), 3, SIZE, SIZE)
        assert picture.pixels.dtype == np.float32
        assert picture.crops == len(expected) - 1
        for pixels, values in zip(picture.pixels, expected, strict=True):
            np.testing.assert_allclose(samples(pixels), values, atol=CLOSE)


def test_goldens_have_every_picture_and_differ_from_one_another():
    goldens = processor_goldens().pictures
    assert [golden.name for golden in goldens] == [*PICTURES, *PHOTOGRAPHS]
    assert {len(golden.cropped) for golden in goldens} == {1, 3, 4, 5}
    wholes = np.asarray([golden.whole[0] for golden in goldens])
    apart = np.abs(wholes[:, None] - wholes[None]).max(-1)
    assert (apart[~np.eye(len(apart), dtype=bool)] > 10 * CLOSE).all()


def test_photographs_are_of_every_mode_and_shown_in_parts_too(tmp_path: Path):
    modes = {}
    for golden in processor_goldens().pictures[len(PICTURES) :]:
        assert len(golden.cropped) == 3, golden.name
        with Image.open(write_picture(golden.name, tmp_path)) as stored:
            modes[golden.name] = stored.mode
    assert list(modes.values()) == ["RGB", "L", "P", "RGBA"]


def test_crop_boxes_are_exactly_those_of_transformers():
    boxes = processor_goldens().boxes
    assert len(boxes) > 300
    assert {len(found) for found in boxes.values()} == {0, 2, 3, 4}
    for (width, height), expected in boxes.items():
        assert tuple(crop_boxes(width, height)) == expected, (width, height)


def test_picture_is_turned_upright_by_its_exif(tmp_path: Path):
    path = write_picture("turned.png", tmp_path)
    with Image.open(path) as stored:
        assert stored.size == (300, 200)
    assert load_rgb(path).size == (200, 300)


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path: Path):
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.astype(np.int32)).save(tmp_path / "wide.tiff")
    for name in ("wide.png", "wide.tiff"):
        grey = np.asarray(load_rgb(tmp_path / name))[..., 1]
        np.testing.assert_array_equal(grey, wide >> 8)


def test_transparent_is_white_and_animations_show_their_first_frame(tmp_path: Path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    clear, moving = load_images([tmp_path / "clear.png", tmp_path / "moving.gif"], 4)
    assert (clear.pixels == 1.0).all()
    assert moving.pixels[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_range_is_exactly_minus_one_to_one():
    black, white = (process(Image.new("RGB", (9, 9), c), 14).pixels for c in ("black", "white"))
    assert (black == -1.0).all()
    assert (white == 1.0).all()


def test_arrays_come_as_they_are_one_picture_each(tmp_path: Path, png: Path):
    pixels = np.linspace(-1, 1, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    np.save(tmp_path / "two.npy", pixels)
    first, second, third = load_images([tmp_path / "two.npy", png], 8, pan_and_scan=True)
    np.testing.assert_array_equal(np.concatenate([first.pixels, second.pixels]), pixels)
    assert (first.crops, second.crops, third.crops) == (0, 0, 0)


GOOD = np.zeros((1, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (GOOD[0], r"expected pixels \[N,3,8,8\] float32 in -1..1, got shape \[3,8,8\]"),
        (GOOD[:, :1], r"got shape \[1,1,8,8\]"),
        (GOOD.transpose(0, 2, 3, 1), r"got shape \[1,8,8,3\]"),
        (np.zeros((1, 3, 9, 8), np.float32), r"got shape \[1,3,9,8\]"),
        (GOOD[:0], r"got shape \[0,3,8,8\]"),
        (GOOD.astype(np.float64), "got dtype float64; convert with astype"),
        (GOOD.astype(np.uint8), "got dtype uint8"),
        (GOOD.astype(">f4"), "got dtype >f4"),
        (GOOD + np.float32(np.nan), "got NaN or infinity"),
        (GOOD - np.float32(np.inf), "got NaN or infinity"),
        (GOOD + np.float32(255), r"got 255..255; normalise bytes as x / 127.5 - 1"),
        (GOOD - np.float32(1.1), r"got -1.1..-1.1"),
    ],
)
def test_array_of_wrong_shape_dtype_or_range_is_refused(
    array: np.ndarray, message: str, tmp_path: Path
):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UsageError, match=rf"a\.npy: .*{message}") as refused:
        load_pixels(tmp_path / "a.npy", 8)
    assert "\n" not in str(refused.value)


def _npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an array",
        b"\x80\x04]\x94.",  # a pickle
        _npy_header("(1, 3, 8, 8)") + bytes(700),  # cut short
        _npy_header("(1000000, 3, 10000, 10000)"),  # a bomb
    ],
)
def test_file_that_is_no_whole_array_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.npy: not a whole \.npy array"):
        load_pixels(tmp_path / "a.npy", 8)


def test_archive_of_arrays_is_refused(tmp_path: Path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, GOOD)
    with pytest.raises(UsageError, match="holds several arrays"):
        load_pixels(tmp_path / "a.npy", 8)


def _refusal(path: Path) -> str:
    with pytest.raises(UsageError) as refused:
        load_images([path], 8)
    assert "\n" not in str(refused.value)
    return refused.value.for_command


@pytest.mark.parametrize("name", ["missing.png", "missing.npy"])
def test_missing_file_is_refused(name: str, tmp_path: Path):
    assert "cannot be read: No such file or directory; check --image" in _refusal(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x00" * 4096])
def test_file_that_is_not_a_picture_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(content)
    assert "a.png: not a picture; expected one of PNG, JPEG" in _refusal(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["square.png", "tall.bmp", "palette.gif", "ink.tiff"])
def test_truncated_picture_is_refused(name: str, tmp_path: Path):
    path = write_picture(name, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "picture is damaged or cut short (" in _refusal(path)


def test_picture_with_a_damaged_header_is_refused(png: Path):
    content = bytearray(png.read_bytes())
    content[20] ^= 0xFF  # within IHDR, whose checksum no longer holds
    png.write_bytes(content)
    assert "dot.png: " in _refusal(png)


def _png(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_picture_of_30000_by_30000_is_refused_by_its_header(tmp_path: Path):
    (tmp_path / "bomb.png").write_bytes(_png(30_000, 30_000))
    refusal = _refusal(tmp_path / "bomb.png")
    assert f"too large: expected at most {MOST_PIXELS} pixels, got more" in refusal


def test_size_is_limited_where_pillow_was_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(_png(30_000, 30_000))
    assert "got 900000000; make it smaller first" in _refusal(tmp_path / "bomb.png")


def test_pictures_that_pillow_only_warns_of_are_read_without_a_word(tmp_path: Path):
    (tmp_path / "big.png").write_bytes(_png(10_000, 10_000))
    assert "damaged or cut short" in _refusal(tmp_path / "big.png")  # holds no pixels


def test_runtime_needs_pillow_only_for_pictures(tmp_path: Path):
    np.save(tmp_path / "a.npy", GOOD)
    code = f"""
import sys
sys.modules["PIL"] = None  # as if it were not installed
from pathlib import Path
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.images import prompt as image_prompt
from gemma3_export.runtime.images.files import crop_boxes, load_images
folder = Path({str(tmp_path)!r})
assert load_images([folder / "a.npy"], 8)[0].crops == 0
try:
    load_images([folder / "a.png"], 8)
except UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "pictures need Pillow, which is not installed; pip install 'gemma3-export[vision]', "
        "or pass normalised pixels as .npy\n"
    )
