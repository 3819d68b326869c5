"""Goldens: inputs of a bundle's programs, and what they must give.

The bundle's `goldens.json` is a `Goldens` object; FORMAT.md says how it is run.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from pathlib import Path

from .bundle import Bundle
from .codec import decode, encode, format_json, parse_json, refuse
from .manifest import Manifest

GOLDENS_VERSION = 1
GOLDENS = "goldens.json"
"""Its usual path in a bundle; the manifest says."""
MAX_GOLDENS_BYTES = 2**24
MAX_TOKENS = 1 << 20


class GoldenKind(enum.StrEnum):
    """What is done with the tokens of a golden."""

    GENERATE = "generate"
    """Greedy generation must go on with exactly `new_tokens`."""
    CLASSIFY = "classify"
    """The class scores must be `values`."""
    EMBED = "embed"
    """The vector must be `values`."""


@dataclass(frozen=True)
class Golden:
    """One input and what it must give."""

    kind: GoldenKind
    text: str
    """What the tokens say, for people; empty when they say nothing."""
    tokens: tuple[int, ...]
    """Token ids, used exactly as given."""
    new_tokens: tuple[int, ...]
    """What greedy generation gives; empty for other kinds."""
    values: tuple[float, ...]
    """Scores or vector; empty for generate."""


@dataclass(frozen=True)
class Goldens:
    """The contents of goldens.json."""

    goldens_version: int
    """1; a reader refuses another."""
    tolerance: float
    """How far a number may be from `values`."""
    cases: tuple[Golden, ...]


def read_goldens(bundle: Bundle) -> Goldens | None:
    """The goldens of a bundle, their digest checked; None when it has none.

    Raises:
        ArtifactError: the file changed or is not what it should be.
    """
    path = bundle.manifest.goldens
    if path is None:
        return None
    bundle.verify_digest(path)
    return parse_goldens(bundle.path(path), bundle.manifest)


def parse_goldens(path: Path, manifest: Manifest) -> Goldens:
    """Goldens from a file, held against the model of `manifest`.

    Raises:
        ArtifactError: another form, version or vocabulary; names the place in the file.
    """
    where = str(path)
    if not path.is_file():
        refuse(where, "", "a file of goldens", "nothing of that name", "name another file")
    if path.stat().st_size > MAX_GOLDENS_BYTES:
        refuse(where, "", f"at most {MAX_GOLDENS_BYTES} bytes", f"{path.stat().st_size}")
    value = parse_json(path.read_bytes(), where)
    if isinstance(value, dict) and value.get("goldens_version") != GOLDENS_VERSION:
        got = str(value.get("goldens_version"))[:40]
        refuse(where, "goldens_version", str(GOLDENS_VERSION), got, "write the goldens again")
    goldens = decode(Goldens, value, where)
    check_goldens(goldens, manifest, where)
    return goldens


def check_goldens(goldens: Goldens, manifest: Manifest, where: str) -> None:
    """Refuse goldens that cannot be those of a bundle with `manifest`.

    Raises:
        ArtifactError: names the place in file `where`.
    """
    remedy = "fix the goldens, or let gemma3-export --goldens run record them"
    if not 0 <= goldens.tolerance < math.inf:
        refuse(where, "tolerance", "at least 0", str(goldens.tolerance), remedy)
    if not goldens.cases:
        refuse(where, "cases", "at least one", "none", remedy)
    programs = {str(program.bucket.program) for program in manifest.programs}
    for index, golden in enumerate(goldens.cases):
        path = f"cases[{index}]"
        needed = {"prefill"} if golden.kind is GoldenKind.GENERATE else {str(golden.kind)}
        if not needed <= programs:
            refuse(where, f"{path}.kind", f"one the bundle has programs for {sorted(programs)}",
                   str(golden.kind), remedy)  # fmt: skip
        for field, numbers in (("tokens", golden.tokens), ("new_tokens", golden.new_tokens)):
            if len(numbers) > MAX_TOKENS:
                refuse(where, f"{path}.{field}", f"at most {MAX_TOKENS}", str(len(numbers)), remedy)
            for token in numbers:
                if not 0 <= token < manifest.model.vocab_size:
                    refuse(where, f"{path}.{field}", f"ids below {manifest.model.vocab_size}",
                           str(token), remedy)  # fmt: skip
        if not golden.tokens:
            refuse(where, f"{path}.tokens", "at least one token", "none", remedy)
        generates = golden.kind is GoldenKind.GENERATE
        if bool(golden.new_tokens) != generates or bool(golden.values) == generates:
            field = "new_tokens" if generates else "values"
            refuse(where, path, f"{field} and nothing else to compare", "otherwise", remedy)


def format_goldens(goldens: Goldens) -> bytes:
    """The bytes of goldens.json; the same goldens give the same bytes."""
    return format_json(encode(goldens)).encode()
