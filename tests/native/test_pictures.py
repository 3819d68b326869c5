"""Pictures of gemma3_text.h give the pixels of the Python runtime; hostile ones are refused."""

from __future__ import annotations

import ctypes as c
import io
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.runtime.images.files import load_images
from PIL import Image

from . import test_host_parts as parts
from .library import BIN, ROOT
from .test_hostile_images import progressive
from .text_binding import PAN_AND_SCAN, PictureBytes, Pictures, RefusedError, TextLibrary, Vision

SIZE = 56


@pytest.fixture(scope="module")
def library(native: Path) -> TextLibrary:
    return TextLibrary(native / "libgemma3.so")


def vision(size: int = SIZE, mean: float = 0.5, deviation: float = 0.5) -> Vision:
    three = (c.c_float * 3)(*[mean] * 3), (c.c_float * 3)(*[deviation] * 3)
    return Vision(c.sizeof(Vision), size, 4, 8, 1, 2, 3, *three)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def expected(data: list[bytes], folder: Path, pan: bool) -> tuple[np.ndarray, list[int]]:
    paths = [folder / f"{number}.picture" for number in range(len(data))]
    for path, content in zip(paths, data, strict=True):
        path.write_bytes(content)
    pictures = load_images(paths, SIZE, pan)
    return np.concatenate([p.pixels for p in pictures]), [p.crops for p in pictures]


@pytest.mark.parametrize("pan", [False, True])
def test_pictures_are_the_pixels_of_the_python_runtime(
    library: TextLibrary, tmp_path: Path, pan: bool
):
    turned = noise(60, 40)
    turned.getexif()[0x0112] = 6
    data = [
        encoded(noise(600, 260), "PNG"),
        encoded(noise(30, 80, "RGBA"), "PNG"),
        encoded(turned, "PNG", exif=turned.getexif()),
        encoded(noise(50, 50, "L"), "PNG"),
    ]
    pixels, crops = library.read_pictures(vision(), data, PAN_AND_SCAN if pan else 0)
    wanted, wanted_crops = expected(data, tmp_path, pan)
    assert crops == wanted_crops
    assert any(crops) == pan
    np.testing.assert_array_equal(pixels, wanted)


def test_jpegs_are_equal_within_a_level_of_a_byte(library: TextLibrary, tmp_path: Path):
    data = [
        encoded(noise(20, 12).resize((311, 217), Image.Resampling.BICUBIC).convert(mode), "JPEG")
        for mode in ("RGB", "L", "CMYK")
    ]
    pixels, _ = library.read_pictures(vision(), data)
    wanted, _ = expected(data, tmp_path, pan=False)
    assert np.abs(pixels - wanted).max() <= 2 / 255 + 1e-6


def test_means_and_deviations_are_those_of_the_bundle(library: TextLibrary):
    (data,) = [encoded(noise(SIZE, SIZE), "PNG")]
    plain, _ = library.read_pictures(vision(mean=0, deviation=1), [data])
    assert plain.min() >= 0
    assert plain.max() == 1
    pixels, _ = library.read_pictures(vision(mean=0.25, deviation=2), [data])
    np.testing.assert_allclose(pixels, (plain - 0.25) / 2, rtol=0, atol=1e-6)


def refusal(library: TextLibrary, *arguments: object) -> str:
    with pytest.raises(RefusedError) as refused:
        library.read_pictures(*arguments)
    status, message = refused.value.args
    assert status == 2
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a picture; expected PNG or JPEG"),
        (b"GIF89a" + bytes(50), "not a picture; expected PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "picture is damaged or cut short ("),
        (parts.png(8, 2, b"")[:90], "picture is damaged or cut short ("),
        (b"\xff\xd8\xff\xe0", "picture is damaged or cut short ("),
        (progressive(101), "picture is damaged or cut short (more than 100 scans)"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_number(library: TextLibrary, data: bytes, words: str):
    sound = encoded(noise(8, 8), "PNG")
    message = refusal(library, vision(), [sound, data])
    assert message.startswith(f"picture 2: {words}")


def test_damaged_pictures_never_crash(library: TextLibrary):
    draw, kinds = random.Random(11), ("PNG", "JPEG")
    sound = [encoded(noise(40, 30), kind) for kind in kinds]
    outcomes = set()
    for number in range(200):
        data = bytearray(sound[number % 2])
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(3, len(data))] ^= 1 << draw.randrange(8)
        data = data[: draw.choice([len(data), draw.randrange(9, len(data))])]
        try:
            pixels, _ = library.read_pictures(vision(8), [bytes(data)])
            outcomes.add(pixels.shape)
        except RefusedError as refused:
            outcomes.add(refused.args[0])
    assert outcomes == {(1, 3, 8, 8), 2}


def test_nonsense_is_refused(library: TextLibrary):
    sound = [encoded(noise(8, 8), "PNG")]
    for size in (0, 8193, 2**32 - 1):
        assert "image_size: expected 1 to 8192" in refusal(library, vision(size), sound)
    for changed in (vision(mean=float("nan")), vision(deviation=0), vision(deviation=-1)):
        assert "finite means" in refusal(library, changed, sound)
    assert "picture_count: expected 1 to 10000, got 0" in refusal(library, vision(), [])
    assert "pictures.flags: has flags" in refusal(library, vision(), sound, 1)
    views, out = (PictureBytes * 1)((None, 5)), (c.byref(c.c_void_p()), c.byref(c.c_size_t()))
    for pictures, words in (
        (Pictures(c.sizeof(Pictures), views, 16, 1), "picture 1: expected a pointer"),
        (Pictures(c.sizeof(Pictures), None, 16, 1), "pictures: expected a pointer"),
        (Pictures(c.sizeof(Pictures), views, 0, 1), "picture_size: expected the size"),
        (Pictures(c.sizeof(Pictures), views, 16, 2**60), "picture_count: expected 1 to 10000"),
    ):
        with pytest.raises(RefusedError, match=words):
            library.call("gemma3_read_pictures", c.byref(vision()), c.byref(pictures), *out, None)


def test_built_without_libpng_and_libjpeg_it_says_so(tmp_path: Path):
    subprocess.run(
        [BIN / "cmake", "-S", ROOT / "runtime" / "native", "-B", tmp_path / "build", "-G", "Ninja",
         f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", f"-DPython3_EXECUTABLE={sys.executable}",
         "-DGEMMA3_PICTURES=OFF"],
        check=True, capture_output=True,
    )  # fmt: skip
    rules = (tmp_path / "build" / "build.ninja").read_text()
    assert "no_pictures.cc" in rules
    assert not re.search(r"/(?:png|jpeg)_picture\.cc|libpng\d*\.so|libjpeg\.so", rules)
    source, native = tmp_path / "main.cc", ROOT / "runtime" / "native"
    source.write_text(
        '#include "error.h"\n#include "picture.h"\n#include <cstdio>\n'
        'int main() try { gemma3::images::decode_png({}, "picture 1"); }\n'
        "catch (const gemma3::UsageError &error) { return std::puts(error.what()), 2; }\n"
    )
    folders = [f"-I{native / name}" for name in ("src", "include", "images")]
    subprocess.run(
        ["g++", "-std=c++17", *folders, source, native / "images" / "no_pictures.cc",
         "-o", tmp_path / "main"],
        check=True,
    )  # fmt: skip
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == (
        "picture 1: this libgemma3 was built without libpng and libjpeg and reads no pictures; "
        "pass normalised pixels, or build again with libpng-dev and libjpeg-dev\n"
    )
