"""Digests of small exports, kept in record.json: what another machine must come to as well.

`python -m tests.export.record` writes them again, for the versions installed here.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import tempfile
from pathlib import Path

from ..goldens.tiny import write_checkpoint
from .exporting import contents, start_export

RECORD = Path(__file__).with_name("record.json")
COMMAND = "python -m tests.export.record"
MESHES = ("--mesh", "2x4", "--mesh", "1x1", "--jobs", "1", "--out", "bundle")
EXPORTS = {
    "bfloat16": ("--dtype", "bfloat16", *MESHES),
    "int8": ("--dtype", "bfloat16", "--quantize", "int8", *MESHES),
}
_OTHERS = ("jax", "jaxlib", "flax", "numpy", "ml_dtypes", "flatbuffers")


def versions() -> dict[str, str]:
    """Of what is not ours and may change an export's bytes."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python} | {name: importlib.metadata.version(name) for name in _OTHERS}


def differing(recorded: dict[str, str]) -> str:
    """Which versions are not those of the record, in words; empty when none."""
    return ", ".join(
        f"{name} {here} instead of {recorded.get(name, 'none')}"
        for name, here in versions().items()
        if here != recorded.get(name)
    )


def main() -> None:
    """Make the exports and write their digests."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint("default", Path(folder) / "default")
        for name, flags in EXPORTS.items():
            run = start_export(checkpoint, Path(folder) / name, *flags)
            _, err = run.communicate()
            if run.returncode:
                sys.exit(err)
            found[name] = contents(Path(folder) / name / "bundle")
    text = json.dumps({"versions": versions(), "exports": found}, indent=2)
    RECORD.write_text(text + "\n")
    print(f"{RECORD}: {sum(map(len, found.values()))} files of {len(found)} exports")


if __name__ == "__main__":
    main()
