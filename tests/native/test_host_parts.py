"""Text, numbers and pictures in gemma3-host are, to the bit, what the Python runtime makes."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.errors import UsageError, one_line
from gemma3_export.export.checkpoint import demo_checkpoint, open_checkpoint
from gemma3_export.runtime.images.files import crop_boxes, load_images
from gemma3_export.runtime.images.prompt import texts_around_images
from gemma3_export.runtime.text.stream import TextStream
from gemma3_export.runtime.text.tokenizer import Tokenizer
from PIL import Image

from ..goldens import texts
from ..goldens.loader import processor_goldens
from ..goldens.pictures import PICTURES, write_picture
from ..runtime.toy_bundle import BOS, toy_tokenizer

SIZE = 56
PIECES = [
    "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "<start_of_image>",
    "<image_soft_token>", "<unused3>", "<mask>", "<0x41>", "\n", "\n\n", "\n\n\n", " ", "  ",
    "     ", "\t", "\u2581", "\u00a0", "\u3000", "\u2003", "\x00", "\x1f", "\x7f", "\u200d",
    "\ufeff", "😀", "👩‍👩‍👧‍👦", "🇩🇪", "日本語", "한국어", "नमस्ते", "مرحبا", "é", "e\u0301", "\ufb01",
    "the", " The", "qwertz", "<h1>", "</table>", "12345678", "'s", "\"", "\\", "\U0010ffff",
    "\ufffd", "\r\n", "<", ">", "\xad", "\ue000",
]  # fmt: skip


def _texts() -> list[str]:
    """Prose in many languages, and seeded mixtures of everything odd."""
    draw = random.Random(7)
    prose = [value for name, value in vars(texts).items() if name.isupper() and len(value) > 1]
    mixed = ["".join(draw.choices(PIECES, k=draw.randint(0, 14))) for _ in range(1500)]
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    anything = [
        "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 30)))
        for _ in range(500)
    ]
    return [*map(str, prose), "", *mixed, *anything]


TEXTS = _texts()


def feed(program: Path, *arguments: object, records: Iterable[bytes]) -> list:
    """What the program answers, a JSON value a line."""
    stdin = b"".join(struct.pack("<I", len(record)) + record for record in records)
    done = subprocess.run(
        [program, *map(str, arguments)], input=stdin, capture_output=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module", params=["gemma", "control", "user_defined"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Gemma's own tokenizer, and the toy one in its two kinds."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    if request.param == "gemma":
        content = open_checkpoint(demo_checkpoint()).tokenizer
        assert content is not None
        path.write_bytes(content)
    else:
        path.write_bytes(toy_tokenizer(steering_as_text=request.param == "user_defined"))
    return Tokenizer(path.read_bytes(), path, BOS)


def test_ids_of_texts_and_chats_are_those_of_the_python_runtime(
    host_parts: Path, tokenizer: Tokenizer
):
    encoded = [text.encode() for text in TEXTS]
    got = feed(host_parts, "encode", tokenizer.path, BOS, records=encoded)
    assert got == [tokenizer.encode(text, add_bos=False) for text in TEXTS]
    chats = feed(host_parts, "chat", tokenizer.path, BOS, records=encoded[:300])
    assert chats == [tokenizer.chat(text) for text in TEXTS[:300]]


def id_lists(tokenizer: Tokenizer) -> list[list[int]]:
    draw = random.Random(3)
    some = [tokenizer.encode(text, add_bos=True) for text in TEXTS[:400]]
    byte = tokenizer.encode("\x01", add_bos=False)[0] - 1  # <0x00>
    spelled = [[byte + b for b in text.encode("utf-8", "surrogatepass")[: draw.randint(1, 9)]]
               for text in ["日本", "🙂🙂", "é\ud800x", "\xff", "aé"] * 20]  # fmt: skip
    for ids in spelled:
        draw.shuffle(ids)
    anything = [draw.choices(range(-2, tokenizer.size + 3), k=12) for _ in range(200)]
    return some + spelled + anything


def test_text_streams_piece_by_piece_as_in_the_python_runtime(
    host_parts: Path, tokenizer: Tokenizer
):
    lists = id_lists(tokenizer)
    records = [struct.pack(f"<{len(ids)}i", *ids) for ids in lists]

    def streamed(stream, ids: Sequence[int]) -> list[str]:
        return [*map(stream.push, ids), stream.close()]

    got = feed(host_parts, "decode", tokenizer.path, BOS, records=records)
    assert got == [streamed(tokenizer.decoder(), ids) for ids in lists]
    stops = ["the", "\n\n", "日本", "e", "\ufffd\ufffd"]
    got = feed(host_parts, "stop", tokenizer.path, BOS, *stops, records=records)
    assert got == [streamed(TextStream(tokenizer.decoder(), stops), ids) for ids in lists]


def test_json_numbers_and_strings_are_those_of_json_dumps_and_null_where_there_is_none(
    host_parts: Path,
):
    draw = random.Random(1)
    numbers = [
        0.0, -0.0, 1.0, 1e15, 1e16, 123456789.0, 1e-4, 1e-5, 5e-324, sys.float_info.max,
        float(np.float32(0.1)), math.inf, -math.inf, math.nan, -9999999999999998.0,
    ]  # fmt: skip
    raw = [struct.unpack("<d", draw.randbytes(8))[0] for _ in range(3000)]
    numbers += [x for x in raw if x == x] + [draw.gauss(0, 10) for _ in range(3000)]
    done = subprocess.run(
        [host_parts, "numbers"], capture_output=True, check=True, text=False,
        input=struct.pack("<I", 8 * len(numbers)) + struct.pack(f"<{len(numbers)}d", *numbers),
    )  # fmt: skip
    assert done.stdout.decode().split() == [
        json.dumps(x) if math.isfinite(x) else "null" for x in numbers
    ]
    strings = feed(host_parts, "strings", records=[text.encode() for text in TEXTS])
    for text, (same, stripped, quoted, line) in zip(TEXTS, strings, strict=True):
        assert (same, stripped) == (text, text.strip())
        if text.isascii():
            assert quoted == repr(text)
            assert line == one_line(text)
        assert line.isprintable() or not text.isascii()


def test_texts_around_images_and_crop_boxes_are_those_of_the_python_runtime(host_parts: Path):
    cases = [("a", [0]), ("", [0, 0]), ("x<start_of_image>y<start_of_image>", [0, 3]),
             ("<start_of_image>", [4]), ("no place", [2, 0, 1])]  # fmt: skip
    records = [part for text, crops in cases
               for part in (struct.pack(f"<{len(crops)}i", *crops), text.encode())]  # fmt: skip
    got = feed(host_parts, "around", records=records)
    assert got == [texts_around_images(text, crops) for text, crops in cases]
    boxes = processor_goldens().boxes
    got = feed(host_parts, "boxes", records=[struct.pack("<2i", *size) for size in boxes])
    assert [[tuple(box) for box in found] for found in got] == [crop_boxes(*s) for s in boxes]


def _pictures(program: Path, *paths: Path, size: int = SIZE, pan: bool = False):
    return subprocess.run(
        [program, "image", str(size), str(int(pan)), *paths], capture_output=True, check=False
    )


def check_same(program: Path, path: Path, size: int = SIZE, pan: bool = False) -> None:
    """Pixels equal the Python runtime's, every bit of them."""
    done = _pictures(program, path, size=size, pan=pan)
    assert (done.returncode, b"error" in done.stderr) == (0, False), done.stderr
    expected = load_images([path], size, pan)
    assert [int(line) for line in done.stderr.split()] == [picture.crops for picture in expected]
    pixels = np.concatenate([picture.pixels for picture in expected])
    got = np.frombuffer(done.stdout, np.float32).reshape(pixels.shape)
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("name", [name for name in PICTURES if name.endswith(".png")])
def test_pngs_of_every_mode_give_the_same_pixels(host_parts: Path, name: str, tmp_path: Path):
    check_same(host_parts, write_picture(name, tmp_path), pan=True)


def test_sizes_from_a_dot_to_a_wall_give_the_same_pixels(host_parts: Path, tmp_path: Path):
    draw = np.random.default_rng(5)
    sizes = [(1, 1), (SIZE, 9), (9, SIZE), (SIZE, SIZE), (57, 55), (1500, 3), (111, 999)]
    for width, height in sizes:
        noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "noise.png")
        check_same(host_parts, tmp_path / "noise.png")
    check_same(host_parts, tmp_path / "noise.png", size=896)


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pictures_are_turned_upright(host_parts: Path, orientation: int, kind: str, tmp_path: Path):
    noise = np.random.default_rng(2).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((500, 300))
    image.getexif()[0x0112] = orientation
    path = tmp_path / f"turned.{kind}"
    image.save(path, exif=image.getexif(), quality=90)
    if kind == "png":
        check_same(host_parts, path)
    else:
        check_near(host_parts, path)


def check_near(program: Path, path: Path) -> None:
    """Equal within a level of a byte: two versions of libjpeg may round differently."""
    got = np.frombuffer(_pictures(program, path).stdout, np.float32)
    (expected,) = load_images([path], SIZE)
    assert got.size == expected.pixels.size
    assert np.abs(got - expected.pixels.reshape(-1)).max() <= 2 / 255 + 1e-6


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("extra", [{}, {"progressive": True}, {"subsampling": 0, "quality": 30}])
def test_jpegs_of_every_mode_give_the_same_pixels(
    host_parts: Path, mode: str, extra: dict, tmp_path: Path
):
    noise = np.random.default_rng(3).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((311, 217), Image.Resampling.BICUBIC).convert(mode)
    image.save(tmp_path / "a.jpg", **extra)
    check_near(host_parts, tmp_path / "a.jpg")


def png(depth: int, kind: int, extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG of noise, 16 pixels wide and 8 high, with the chunks `extra` before its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    draw = random.Random(depth * 10 + kind)
    rows = [draw.randbytes(16 * channels * depth // 8) for _ in range(8)]
    data = b"".join(b"\0" + row for row in rows)
    header = struct.pack(">IIBBBBB", 16, 8, depth, kind, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (_chunk(b"IHDR", header), extra, _chunk(b"IDAT", zlib.compress(data)), _chunk(b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PALETTE = _chunk(b"PLTE", bytes(i * 37 % 256 for i in range(768)))


@pytest.mark.parametrize(
    ("depth", "kind", "extra"),
    [
        *((depth, 0, b"") for depth in (1, 2, 4, 8, 16)),
        *((depth, 0, _chunk(b"tRNS", struct.pack(">H", key)))
          for depth, key in ((1, 1), (1, 0), (2, 0), (2, 3), (4, 15), (8, 85), (16, 300))),
        *((depth, 2, b"") for depth in (8, 16)),
        (8, 2, _chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))),
        *((depth, 3, PALETTE[:0] + _chunk(b"PLTE", PALETTE[8 : 8 + 3 * 2**depth]))
          for depth in (1, 2, 4, 8)),
        *((depth, 3, _chunk(b"PLTE", PALETTE[8 : 8 + 3 * 2**depth]) + _chunk(b"tRNS", alphas))
          for depth in (1, 2, 4, 8) for alphas in (b"\0", b"\x80\xff", b"\xff\0")),
        *((depth, kind, b"") for depth in (8, 16) for kind in (4, 6)),
    ],
)  # fmt: skip
def test_pngs_of_every_depth_and_kind_of_transparency_give_the_same_pixels(
    host_parts: Path, depth: int, kind: int, extra: bytes, tmp_path: Path
):
    path = tmp_path / "a.png"
    path.write_bytes(png(depth, kind, extra))
    check_same(host_parts, path)


def test_arrays_give_the_same_pixels_in_either_order(host_parts: Path, tmp_path: Path):
    pixels = np.linspace(-1, 1, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    np.save(tmp_path / "a.npy", pixels)
    np.save(tmp_path / "f.NPY.npy", np.asfortranarray(pixels))
    for name in ("a.npy", "f.NPY.npy"):
        check_same(host_parts, tmp_path / name, size=8)


GOOD = np.zeros((1, 3, 8, 8), np.float32)


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _damaged_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(30000, dtype=np.uint32).astype(np.uint8).reshape(100, 100, 3)).save(
        file, "JPEG"
    )
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("a.npy", _saved(array)) for array in (
            GOOD[0], GOOD[:, :1], np.zeros((1, 3, 9, 8), np.float32), GOOD[:0],
            GOOD.astype(np.float64), GOOD.astype(np.uint8), GOOD.astype(">f4"),
            GOOD + np.float32(np.nan), GOOD - np.float32(np.inf), GOOD + np.float32(255),
            GOOD - np.float32(1.1),
        )),
        *(("a.npy", content) for content in (
            b"", b"not an array", _saved(GOOD)[:-5], b"\x93NUMPY\x09\x00" + bytes(80),
        )),
        ("a.png", None),
        ("a.npy", None),
    ],
)  # fmt: skip
def test_refusals_are_the_lines_of_the_python_runtime(
    host_parts: Path, name: str, content: bytes | None, tmp_path: Path
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        load_images([path], 8)
    done = _pictures(host_parts, path, size=8)
    assert done.returncode == 2
    assert done.stderr.decode() == f"error: {refused.value.for_command}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a picture; expected PNG or JPEG"),
        (b"GIF89a" + bytes(50), "not a picture; expected PNG or JPEG"),
        (png(8, 2, b"")[:90], "picture is damaged or cut short ("),
        (png(8, 2, b"")[:40] + b"\xff" + png(8, 2, b"")[41:], "picture is damaged or cut short"),
        (b"\x89PNG\r\n\x1a\n", "picture is damaged or cut short ("),
        (b"\xff\xd8\xff\xe0", "picture is damaged or cut short ("),
        (_damaged_jpeg(), "picture is damaged or cut short ("),
        (
            b"\x89PNG\r\n\x1a\n"
            + _chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
            + _chunk(b"IDAT", b""),
            "picture is too large: expected at most 178956970 pixels, got 900000000; make it",
        ),
    ],
)
def test_pictures_that_cannot_be_read_are_one_line(
    host_parts: Path, content: bytes, message: str, tmp_path: Path
):
    (tmp_path / "a.png").write_bytes(content)
    done = _pictures(host_parts, tmp_path / "a.png")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert f"a.png: {message}" in done.stderr.decode()


def test_damaged_pictures_never_crash(host_parts: Path, tmp_path: Path):
    """Flipped and cut bytes of a PNG and a JPEG end in pixels or in one line."""
    draw = random.Random(11)
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(buffer, "JPEG", progressive=True)
    paths = []
    for number in range(60):
        whole = bytearray(buffer.getvalue() if number % 2 else png(8, 6, PALETTE))
        for _ in range(draw.randint(1, 6)):
            whole[draw.randrange(3, len(whole))] ^= 1 << draw.randrange(8)
        path = tmp_path / f"{number}.bin"
        path.write_bytes(whole[: draw.choice([len(whole), draw.randrange(9, len(whole))])])
        paths.append(path)
    for path in paths:
        done = _pictures(host_parts, path, size=8)
        assert done.returncode in (0, 2), done.stderr
        assert done.returncode == 0 or done.stderr.count(b"\n") == 1
