"""Which fixed shapes serve a request: pure functions over lists of sizes, and one grid of buckets.

Nothing here depends on jax, so a request that fits nothing is refused before a device is
touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...artifacts.errors import ArtifactError, UsageError
from ...artifacts.manifest import Bucket, ProgramName


def pick(needed: int, sizes: Collection[int]) -> int:
    """The smallest size that is at least `needed`, else the largest; `sizes` is not empty."""
    return min((size for size in sizes if size >= needed), default=max(sizes))


def split_rows(rows: int, batch_sizes: Collection[int]) -> list[tuple[int, int]]:
    """(rows, batch bucket) of each group that serves `rows` prompts, in order.

    Full groups of the largest bucket first, then the smallest bucket that holds the rest.
    """
    groups: list[tuple[int, int]] = []
    while rows > 0:
        batch = pick(rows, batch_sizes)
        groups.append((min(rows, batch), batch))
        rows -= batch
    return groups


@dataclass(frozen=True)
class Shape:
    """The batch and cache length shared by all programs that serve one group of rows."""

    batch: int
    cache: int


@dataclass(frozen=True)
class Group:
    """Rows `first` to `first + count` of a request, run together in programs of `shape`."""

    first: int
    count: int
    shape: Shape


@dataclass(frozen=True)
class Grid:
    """The buckets a bundle has for one mesh and platform.

    `source` names the bundle in messages, e.g. `x/manifest.json, mesh 2x4`.
    """

    source: str
    buckets: frozenset[Bucket]

    def tokens(self, program: ProgramName, shape: Shape) -> tuple[int, ...]:
        """The token sizes of `program` at this batch and cache length, ascending."""
        return tuple(
            sorted(
                bucket.tokens
                for bucket in self.buckets
                if (bucket.program, bucket.batch, bucket.cache)
                == (program, shape.batch, shape.cache)
            )
        )

    def generating(self) -> frozenset[Shape]:
        """Shapes that can take in a prompt and go on from it."""
        decoding = self.shapes(ProgramName.GENERATE) | self.shapes(ProgramName.DECODE)
        return self.shapes(ProgramName.PREFILL) & decoding

    def stepping(self) -> frozenset[Shape]:
        """Shapes that can generate one token at a time, with the logits of each."""
        return self.shapes(ProgramName.PREFILL) & self.shapes(ProgramName.DECODE)

    def scoring(self) -> frozenset[Shape]:
        """Shapes that can give the log-probabilities of a text."""
        return self.shapes(ProgramName.SCORE)

    def classifying(self) -> frozenset[Shape]:
        """Shapes that can give the scores of the classes for a text."""
        return self.shapes(ProgramName.CLASSIFY)

    def embedding(self) -> frozenset[Shape]:
        """Shapes, of no cache, that can give the vector of a text."""
        return self.shapes(ProgramName.EMBED)

    def image_counts(self) -> tuple[int, ...]:
        """How many images one call can encode, ascending; empty without such a program."""
        encoding = (b for b in self.buckets if b.program == ProgramName.ENCODE_IMAGE)
        return tuple(sorted(bucket.batch for bucket in encoding))

    def shapes(self, program: ProgramName) -> frozenset[Shape]:
        """Batch and cache of every bucket of `program`."""
        return frozenset(
            Shape(bucket.batch, bucket.cache)
            for bucket in self.buckets
            if bucket.program == program
        )

    def groups(self, shapes: frozenset[Shape], rows: int, needed: int) -> list[Group]:
        """The groups that serve `rows` rows of `needed` positions each, in order.

        `needed` must not exceed `longest(shapes)`: ask `require_fit` first.
        """
        usable = [shape for shape in shapes if shape.cache >= needed]
        groups: list[Group] = []
        first = 0
        for count, batch in split_rows(rows, {shape.batch for shape in usable}):
            cache = min(shape.cache for shape in usable if shape.batch == batch)
            groups.append(Group(first, count, Shape(batch, cache)))
            first += count
        return groups

    def longest(self, shapes: frozenset[Shape], task: str) -> int:
        """The most positions a row can have in any of `shapes`.

        Raises ArtifactError when there are none: the bundle lacks the programs for `task`.
        """
        if not shapes:
            there = {bucket.program for bucket in self.buckets}
            raise ArtifactError(
                f"cannot {task}: {self.source} has only these programs: "
                f"{', '.join(sorted(there)) or 'none'}; {_remedy(task, there)}"
            )
        return max(shape.cache for shape in shapes)

    def require_fit(
        self, shapes: frozenset[Shape], task: str, lengths: Sequence[int], new_tokens: int
    ) -> None:
        """Refuse `task` when a row of `lengths` plus `new_tokens` fits no cache bucket.

        Raises UsageError naming the longest prompt, the cache buckets there are and what fits.
        """
        largest = self.longest(shapes, task)
        longest = max(lengths)
        needed = longest + new_tokens
        if needed <= largest:
            return
        caches = ", ".join(str(cache) for cache in sorted({shape.cache for shape in shapes}))
        request = f"prompt of {_count(longest, 'token')}"
        remedy = f"re-export with --cache {_round_up(needed)}"
        if new_tokens:
            request += f" and {_count(new_tokens, 'new token')}"
        if longest < largest:
            remedy = f"ask for at most {_count(largest - longest, 'new token')}, or {remedy}"
        raise UsageError(
            f"{request} does not fit: largest cache bucket is {largest} "
            f"(cache buckets of {self.source}: {caches}); {remedy}"
        )


_SEEN = ("encode_image", "prefill", "prefill_images")
_NEEDED = {
    "generate": ("prefill", "generate"),
    "generate with log-probabilities": ("prefill", "decode"),
    "generate from images": (*_SEEN, "generate"),
    "generate with log-probabilities from images": (*_SEEN, "decode"),
    "score": ("score",),
    "score images": ("encode_image", "score", "score_images"),
    "classify": ("classify",),
    "classify images": ("encode_image", "classify", "classify_images"),
    "embed": ("embed",),
}
"""The programs of each thing to do, by what messages call it."""


def _remedy(what: str, there: Collection[str]) -> str:
    """How to get a bundle that can do `what`, seeing which programs this one has."""
    needed, heads = _NEEDED[what], {"classify", "embed"}
    if heads & {*there} != heads & {*needed}:
        return "export another checkpoint"
    return f"re-export with --programs {','.join(sorted({*there, *needed}))}"


def _round_up(needed: int) -> int:
    """The next power of two: what people pass to --cache."""
    return 1 << (needed - 1).bit_length()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
