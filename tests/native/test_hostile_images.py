"""Pictures made to hurt a reader: each ends in one line, whatever it asks for."""

from __future__ import annotations

import io
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

USAGE, FAILED = 2, 1


def read(
    host_parts: Path, path: Path, memory: int | None = None
) -> subprocess.CompletedProcess[str]:
    """What the reader of pictures makes of a file, with at most `memory` bytes of address space."""

    limit = "unlimited" if memory is None else str(memory >> 10)
    done = subprocess.run(
        ["sh", "-c", f'ulimit -v {limit} && exec "$0" "$@"', host_parts, "image", "56", "0", path],
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.hex()[:8], done.stderr.decode()
    )


def png(width: int, height: int, depth: int, color: int, rows: bytes, *more: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)),
         chunk(b"IEND", b""))
    )  # fmt: skip


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_row_too_long_for_the_memory_is_refused(
    host_parts: Path, tmp_path: Path, interlaced: int
) -> None:
    """libpng gives up where it makes room for a row, after the header has been read."""
    path = tmp_path / "wide.png"
    data = bytearray(png(150_000_000, 1, 16, 6, b"\0" * 1000))
    data[28] = interlaced
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    done = read(host_parts, path, memory=700 << 20)
    assert done.returncode == FAILED, done
    assert "not enough memory for the picture" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_sound_picture_of_every_kind_is_still_read(host_parts: Path, tmp_path: Path) -> None:
    for name, mode in (("l", "L"), ("rgb", "RGB"), ("rgba", "RGBA"), ("p", "P"), ("one", "1")):
        path = tmp_path / f"{name}.png"
        Image.new(mode, (60, 40), 1).save(path)
        done = read(host_parts, path)
        assert (done.returncode, done.stderr) == (0, "0\n")


def progressive(scans: int) -> bytes:
    """A JPEG whose last scan is repeated until it has that many."""
    out = io.BytesIO()
    Image.effect_noise((64, 64), 40).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    last = data[starts[-1] : -2]
    assert data[-2:] == b"\xff\xd9"
    return data[:-2] + last * (scans - len(starts)) + data[-2:]


def test_scans_of_a_jpeg_are_counted(host_parts: Path, tmp_path: Path) -> None:
    path = tmp_path / "scans.jpg"
    path.write_bytes(progressive(100))
    assert read(host_parts, path).returncode == 0
    path.write_bytes(progressive(101))
    done = read(host_parts, path)
    assert done.returncode == USAGE
    assert "damaged or cut short (more than 100 scans)" in done.stderr
    path.write_bytes(progressive(200_000))
    began = time.monotonic()
    assert read(host_parts, path).returncode == USAGE
    assert time.monotonic() - began < 20
