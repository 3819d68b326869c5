"""JSON that is parsed whole is compared with a cap before: a small file must not cost gigabytes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gemma3_export.artifacts import writer
from gemma3_export.artifacts.bundle import MAX_MANIFEST_BYTES, Bundle
from gemma3_export.artifacts.compiled import CompiledStore, fingerprint
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.goldens import parse_goldens
from gemma3_export.artifacts.signing import require_signature
from gemma3_export.artifacts.writer import BundleWriter

from ..signing_keys import write_key

MIB_16 = 2**24


def sparse(path: Path, size: int) -> None:
    """A file of `size` bytes of zeros that takes no room."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def test_a_manifest_above_16_mib_is_refused_before_it_is_parsed(tiny: Path):
    assert MAX_MANIFEST_BYTES == MIB_16
    for size in (MIB_16 + 1, 2**40):
        sparse(tiny / "manifest.json", size)
        began = time.monotonic()
        with pytest.raises(ArtifactError, match="expected at most 16777216 bytes, got more"):
            Bundle.open(tiny)
        assert time.monotonic() - began < 1


def test_the_largest_manifest_costs_little(tiny: Path):
    """Of its own process: what 16 MiB of empty arrays take in memory and time."""
    text = b'{"format_version":2,"x":[' + b"[]," * 5_592_000 + b"[]]}"
    assert MIB_16 - 2000 < len(text) <= MIB_16
    (tiny / "manifest.json").unlink()
    (tiny / "manifest.json").write_bytes(text)
    code = (
        "import re, sys, time\nfrom pathlib import Path\n"
        "from gemma3_export.artifacts.bundle import Bundle\n"
        "from gemma3_export.artifacts.errors import ArtifactError\n"
        "began = time.process_time()\n"
        "try: Bundle.open(sys.argv[1])\n"
        "except ArtifactError as error: print(error)\n"
        "print(time.process_time() - began)\n"
        # Of this program alone: ru_maxrss begins with what the process that started it had.
        "status = Path('/proc/self/status').read_text()\n"
        "print(re.search('VmHWM: *([0-9]+)', status.replace(chr(9), ' '))[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny], capture_output=True, text=True, check=True
    )
    refusal, seconds, resident = done.stdout.splitlines()
    assert "manifest.json" in refusal
    assert float(seconds) < 10
    assert int(resident) < 1_000_000  # KiB


def test_a_manifest_above_16_mib_is_not_written(
    tmp_path: Path, write_tiny: Callable, monkeypatch: pytest.MonkeyPatch
):
    manifest = write_tiny(tmp_path / "b")
    text = (tmp_path / "b" / "manifest.json").read_bytes()
    monkeypatch.setattr(writer, "MAX_MANIFEST_BYTES", len(text) - 1)
    message = (
        rf"would have {len(text)} bytes: expected at most {len(text) - 1}; .* programs: export"
    )
    with pytest.raises(UsageError, match=message):
        write_tiny(tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with BundleWriter(tmp_path / "d") as out:
        long = dataclasses.replace(manifest.model, name="n" * len(text))
        with (
            pytest.raises(UsageError, match="would have"),
            out.draft(dataclasses.replace(manifest, model=long)),
        ):
            pass


def test_a_header_of_weights_above_16_mib_is_refused(tiny: Path):
    path = tiny / "weights" / "model.safetensors"
    sparse(path, 2 * MIB_16)
    with path.open("r+b") as file:
        file.write((MIB_16 + 1).to_bytes(8, "little"))
    manifest = json.loads((tiny / "manifest.json").read_text())
    for record in manifest["files"]:
        if record["path"] == "weights/model.safetensors":
            record["bytes"] = 2 * MIB_16
    (tiny / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"expected a safetensors header .* got 16777217 bytes"):
        Bundle.open(tiny)


def test_a_signature_above_16_mib_is_refused(tiny: Path, tmp_path: Path):
    sparse(tiny / "model.sig", MIB_16 + 1)
    _, public = write_key(tmp_path, "key")
    with pytest.raises(ArtifactError, match="expected a signature by model-signing"):
        require_signature(tiny, public)


def test_goldens_above_16_mib_are_refused(tiny: Path, tmp_path: Path):
    sparse(tmp_path / "goldens.json", MIB_16 + 1)
    with pytest.raises(ArtifactError, match="expected at most 16777216"):
        parse_goldens(tmp_path / "goldens.json", Bundle.open(tiny).manifest)


@pytest.mark.parametrize("text", [b"[]," * (MIB_16 // 3), b"[" * 100_000], ids=["large", "deep"])
def test_an_index_of_compiled_programs_that_is_none_costs_a_remark(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
):
    identity = {"host": "test"}
    index = tmp_path / fingerprint(identity) / "index.json"
    index.parent.mkdir()
    index.write_bytes(text + b"[]")
    found = CompiledStore([tmp_path], identity, b"k" * 32)
    assert found.read("a.bin") is None
    assert [str(index) in record.message for record in caplog.records] == [True]
    assert found.write("a.bin", b"code")
    assert CompiledStore([tmp_path], identity, b"k" * 32).read("a.bin") == b"code"
