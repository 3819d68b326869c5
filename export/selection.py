"""Which programs of a checkpoint are lowered, and what each of them needs beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..artifacts.convention import takes_images
from ..artifacts.errors import UsageError
from ..artifacts.manifest import ProgramName
from .arguments import IMAGES, NO_IMAGES, OUTPUTS, PROGRAMS, SAVED_MODEL, SLOTS, WITH_GOLDENS

if TYPE_CHECKING:
    from .options import ExportOptions

_TEXT = (ProgramName.PREFILL,)
_NEEDS: dict[ProgramName, tuple[ProgramName, ...]] = {
    ProgramName.DECODE: _TEXT,
    ProgramName.GENERATE: _TEXT,
    ProgramName.PREFILL_IMAGES: (ProgramName.PREFILL, ProgramName.ENCODE_IMAGE),
    ProgramName.SCORE_IMAGES: (ProgramName.SCORE, ProgramName.ENCODE_IMAGE),
    ProgramName.CLASSIFY_IMAGES: (ProgramName.CLASSIFY, ProgramName.ENCODE_IMAGE),
}
"""What no host can run a program without: chunks without images go through the one for texts."""
WITH_IMAGES = tuple(name for name in ProgramName if takes_images(name))
_WHOLE_CALLS = (
    ProgramName.GENERATE, ProgramName.SCORE, ProgramName.CLASSIFY, ProgramName.EMBED,
)  # fmt: skip
"""Of which a SavedModel makes a signature that answers a request."""


def check_selection(
    programs: Sequence[ProgramName], images: Sequence[int] | None, outputs: Sequence[str]
) -> None:
    """Refuse programs that no host could run, and flags about programs that are left out.

    Raises:
        UsageError: names the program and what to add.
    """
    for name in programs:
        missing = [needed for needed in _NEEDS.get(name, ()) if needed not in programs]
        if missing:
            raise UsageError(
                f"{PROGRAMS}: {name} needs {' and '.join(missing)}; add {_names(missing)}"
            )
    encodes = ProgramName.ENCODE_IMAGE in programs
    if encodes and not set(WITH_IMAGES) & set(programs):
        raise UsageError(
            f"{PROGRAMS}: encode_image needs a program that takes its images in; add one of "
            f"{_names(WITH_IMAGES)}"
        )
    if encodes and images == ():
        raise UsageError(f"{PROGRAMS} encode_image and {NO_IMAGES} exclude each other: pass one")
    if images and not encodes:
        raise UsageError(f"{IMAGES} needs encode_image among {PROGRAMS}: add it, or leave it out")
    if outputs and ProgramName.SCORE not in programs:
        raise UsageError(
            f"{OUTPUTS} needs score among {PROGRAMS}: it says what score gives; add it"
        )


def check_offered(
    programs: Sequence[ProgramName], offered: Collection[ProgramName], source: str
) -> None:
    """Refuse programs that are not of a checkpoint of this kind; `source` says which it is.

    Raises:
        UsageError: names the first one.
    """
    for name in programs:
        if name not in offered:
            known = _names([program for program in ProgramName if program in offered])
            raise UsageError(f"{PROGRAMS}: {source} has {known}; got {name}")


def check_uses(programs: Sequence[ProgramName], options: ExportOptions) -> None:
    """Refuse a SavedModel, or goldens, without the programs that they are made of.

    Raises:
        UsageError: names the flag and what to add.
    """
    uses: list[tuple[str, Sequence[ProgramName]]] = []
    if options.saved_model and not set(_WHOLE_CALLS) & set(programs):
        uses.append((SAVED_MODEL, (ProgramName.GENERATE,)))
    if options.saved_model and (options.slots or ProgramName.PREFILL in programs):
        flag = SLOTS if options.slots else SAVED_MODEL
        uses.append((flag, (ProgramName.PREFILL, ProgramName.GENERATE)))
    grows = not {ProgramName.CLASSIFY, ProgramName.EMBED} & set(programs)
    if options.goldens is not None and grows:
        # Whether a token is certain is seen in its logits, which decode gives.
        uses.append((WITH_GOLDENS, (ProgramName.PREFILL, ProgramName.DECODE)))
    for flag, needed in uses:
        missing = [name for name in needed if name not in programs]
        if missing:
            raise UsageError(
                f"{flag} needs {' and '.join(missing)} among {PROGRAMS}; add {','.join(missing)}"
            )


def _names(programs: Sequence[ProgramName]) -> str:
    return ",".join(programs)
