"""The bundles that are measured: a recipe each, exported once per state of the sources."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"
GENERATE = 32


@dataclass(frozen=True)
class Recipe:
    """How a bundle is exported, and the GGUF format with weights of the same size."""

    name: str
    arguments: tuple[str, ...]
    peer: str


RECIPES = (
    Recipe("bf16", ("--kernels",), "BF16"),
    Recipe("int8", ("--quantize", "int8", "--kernels"), "Q8_0"),
    Recipe("int4", ("--quantize", "int4-pure", "--kernels"), "Q4_0"),
)


@dataclass(frozen=True)
class Grid:
    """Buckets of a bundle, and what it is called."""

    suffix: str
    batch: tuple[int, ...]
    prefill: tuple[int, ...]
    cache: tuple[int, ...]

    @property
    def arguments(self) -> list[str]:
        """As flags of `gemma3-export`."""
        sizes = {"--batch": self.batch, "--prefill": self.prefill, "--cache": self.cache}
        flags = [part for flag, each in sizes.items() for part in (flag, ",".join(map(str, each)))]
        return ["--mesh", "1x1", "--generate", str(GENERATE), *flags]


# One bundle with all of these would have three times as many programs, most of them unused.
ONE = Grid("", (1,), (512,), (1024, 4096, 16384))
EIGHT = Grid("-batch8", (8,), (512,), (1024,))
DEFAULT = Grid("-default", (1,), (32, 128, 512), (2048,))


def command(name: str) -> str:
    """The console script of this environment."""
    return str(Path(sys.executable).with_name(name))


def export_bundle(recipe: Recipe, grid: Grid) -> Path:
    """The bundle of a recipe, exported unless one of the same sources and flags is there."""
    out = BUILD / f"{recipe.name}{grid.suffix}"
    arguments = [*grid.arguments, *recipe.arguments]
    stamp, key = out.with_name(f"{out.name}.key"), _sources(arguments)
    if not (out / "manifest.json").exists() or not stamp.exists() or stamp.read_text() != key:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [command("gemma3-export"), *arguments, "--out", out, "--force"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        stamp.write_text(key)
    return out


def _sources(arguments: list[str]) -> str:
    """Digest of everything in the repository that an export depends on."""
    digest = hashlib.sha256(repr(arguments).encode())
    for folder in ("model", "export", "artifacts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
