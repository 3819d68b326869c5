"""A batch of rows being generated: its cache, positions and last tokens, stepped by programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from ..artifacts.convention import STOP_TOKENS
from ..artifacts.manifest import Bucket, ProgramName
from .buckets import Shape, pick
from .model import LoadedModel
from .programs import Arrays, Inputs
from .reading import PREFILL, Call, chunk_inputs, plan_calls
from .sampling import SamplingParameters, TopTokens, top_tokens
from .vision import Images, SoftPrompts, encode_prompts, has_images


@dataclass(frozen=True)
class Step:
    """What one call of a program brought: for each row its new tokens, in order.

    With log-probabilities on, `logprobs[row][i]` are the likeliest tokens where `tokens[row][i]`
    was drawn; otherwise the lists are empty.
    """

    tokens: list[list[int]]
    logprobs: list[list[TopTokens]]


class Session:
    """Rows that are generated together, each at its own position.

    Call `prefill` once, then iterate over `generate`. The state between calls is the cache on
    the devices, and for each row its last token, not yet in the cache, with its position.
    Not for use by several threads at once.
    """

    def __init__(
        self,
        model: LoadedModel,
        shape: Shape,
        sampling: SamplingParameters,
        stop_tokens: Sequence[int] = (),
        logprobs: int = 0,
    ) -> None:
        """An empty session in a bucket of the model's grid.

        A row ends after one of `stop_tokens`. `logprobs` above 0 asks for that many likeliest
        tokens with each token, which takes one call of a program per token.
        """
        self._model = model
        self._shape = shape
        self._sampling = sampling.arrays(shape.batch)
        self._stop_tokens = frozenset(stop_tokens)
        self._stop_inputs = np.full((shape.batch, STOP_TOKENS), -1, np.int32)
        self._stop_inputs[:, : len(stop_tokens)] = list(stop_tokens)[:STOP_TOKENS]  # [B,8]
        self._logprobs = logprobs
        self._generate_sizes = model.grid.tokens(ProgramName.GENERATE, shape)
        self._cache = model.new_cache(shape)
        self._tokens = np.zeros(shape.batch, np.int32)
        self._positions = np.zeros(shape.batch, np.int32)
        self._remaining = np.zeros(shape.batch, np.int32)

    def prefill(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, images: Images = ()
    ) -> Step:
        """Take in one prompt per row and draw the first token of each.

        Rows beyond the prompts stay idle. `new_tokens` is the most tokens each row is to get,
        this first one included. `images` has for each prompt the pixels of its images, or is
        empty; `vision.check_images` says whether they suit the prompts.
        """
        rows, lengths = len(prompts), [len(prompt) for prompt in prompts]
        soft = encode_prompts(self._model, prompts, images) if has_images(images) else None
        calls = plan_calls(self._model, self._shape, prompts, images, PREFILL)
        ends = []  # (rows whose prompt ends in a call, the outputs of that call)
        for call in calls:
            outputs = self._feed(prompts, call, soft)
            ended = [
                row
                for row, (start, length) in enumerate(call.rows)
                if length and start + length == lengths[row]
            ]
            if ended:  # else the logits, a vocabulary for each row, are dropped at once
                ends.append((ended, outputs))
        tops: list[list[TopTokens]] = [[] for _ in prompts]
        for ended, (tokens, logits) in ends:
            self._tokens[ended] = np.asarray(tokens)[ended]
            self._add_top(tops, logits, ended)
        self._positions[:rows] = lengths
        self._remaining[:rows] = new_tokens
        return self._account([[int(token)] for token in self._tokens[:rows]], tops)

    def generate(self, chunk: int | None = None) -> Iterator[Step]:
        """Go on until every row has its tokens, has met a stop token or was finished.

        A step brings up to `chunk` tokens of each row, by default as many as the program gives.
        """
        while self._remaining.any():
            if self._logprobs or not self._generate_sizes:
                yield self._decode_one()
            else:
                yield self._generate_some(chunk)

    def finish(self, row: int) -> None:
        """Ask for no more tokens of `row`."""
        self._remaining[row] = 0

    def _feed(
        self, prompts: Sequence[Sequence[int]], call: Call, soft: SoftPrompts | None
    ) -> Arrays:
        """Run one prefill call; outputs token [B] and logits [B,V], still on the devices."""
        inputs = chunk_inputs(call, prompts, self._shape.batch, soft)
        return self._run(call.program, call.size, (*inputs, *self._sampling))

    def _generate_some(self, chunk: int | None) -> Step:
        """Up to `chunk` tokens for every active row, drawn by one loop on the devices."""
        wanted = min(int(self._remaining.max()), chunk or max(self._generate_sizes))
        size = pick(wanted, self._generate_sizes)
        limits = np.minimum(self._remaining, min(wanted, size)).astype(np.int32)
        inputs = (self._tokens, self._positions, limits, self._stop_inputs, *self._sampling)
        tokens, count, _, last, position = map(
            np.asarray, self._run(ProgramName.GENERATE, size, inputs)
        )
        active = limits > 0
        assert (count[active] > 0).all(), "a generate program that emits nothing would never end"
        self._tokens = np.where(active, last, self._tokens)
        self._positions = np.where(active, position, self._positions)
        new = [tokens[row, : count[row] * active[row]].tolist() for row in range(len(active))]
        return self._account(new, [[] for _ in new])

    def _decode_one(self) -> Step:
        """One token for every active row.

        The program has no idle rows: those that are done are fed their last token at its place
        once more, which nothing reads.
        """
        active = np.flatnonzero(self._remaining)
        token, logits = self._run(
            ProgramName.DECODE, 1, (self._tokens, self._positions, *self._sampling)
        )
        tokens = np.asarray(token)
        new: list[list[int]] = [[] for _ in range(self._shape.batch)]
        tops: list[list[TopTokens]] = [[] for _ in new]
        for row in active:
            new[row].append(int(tokens[row]))
        self._add_top(tops, logits, active)
        # New arrays: devices that lag behind may still be reading those of this call.
        going = self._remaining > 0
        self._tokens = np.where(going, tokens, self._tokens)
        self._positions = np.where(going, self._positions + 1, self._positions)
        return self._account(new, tops)

    def _run(self, program: ProgramName, tokens: int, inputs: Inputs) -> Arrays:
        """Call a program of this session's shape; its outputs. The cache changes in place."""
        bucket = Bucket(program, self._shape.batch, tokens, self._shape.cache)
        outputs, self._cache = self._model.program(bucket)(inputs, self._cache)
        return outputs

    def _add_top(self, tops: list[list[TopTokens]], logits: jax.Array, rows: Iterable[int]) -> None:
        """Append the likeliest tokens of `rows` in logits [B,V] to their lists, if wanted."""
        if self._logprobs:
            table = np.asarray(logits)
            for row in rows:
                tops[row].append(top_tokens(table[row], self._logprobs))

    def _account(self, tokens: list[list[int]], tops: list[list[TopTokens]]) -> Step:
        """Count new tokens against each row's budget and end rows at their stop tokens.

        The device knows only the first few stop tokens, so all are looked for here again.
        """
        for row, new in enumerate(tokens):
            stop = next((i for i, token in enumerate(new) if token in self._stop_tokens), None)
            if stop is None:
                self._remaining[row] -= len(new)
            else:
                del new[stop + 1 :]
                self._remaining[row] = 0
        return Step(tokens, tops)
