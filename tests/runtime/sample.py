"""The small bundle that is kept of each format version from 2 on: real programs, and goldens.

`python -m tests.runtime.sample FOLDER` writes one of the current version; it is committed as
tests/artifacts/data/v<version>-sample when the version is new, and never changed afterwards.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.goldens import GOLDENS, format_goldens
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.artifacts.writer import BundleWriter
from gemma3_export.runtime.checks.goldens import record_goldens
from gemma3_export.runtime.loading.model import LoadedModel

from .toy_bundle import Toy, make_toy_bundle

TOY = Toy(
    batch=(1,), prefill=(4,), tokenizer=False,
    programs=(ProgramName.PREFILL, ProgramName.DECODE, ProgramName.GENERATE),
)  # fmt: skip


def write_sample(out: Path) -> None:
    """Write the toy at `out` with goldens of what it gives here."""
    toy = make_toy_bundle(out.with_name(f"{out.name}-without"), TOY)
    bundle = Bundle.open(toy)
    goldens = format_goldens(record_goldens(LoadedModel.load(toy)))
    with BundleWriter(out) as writer:
        for record in bundle.manifest.files:
            writer.add_file(record.path, bundle.path(record.path).read_bytes())
        writer.add_file(GOLDENS, goldens)
        writer.commit(dataclasses.replace(bundle.manifest, files=(), goldens=GOLDENS))


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
