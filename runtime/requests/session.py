"""A batch of rows being generated: its cache, positions and last tokens, stepped by programs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from ...artifacts.convention import STOP_TOKENS
from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, ProgramName
from ..images.encode import Images, SoftPrompts, encode_prompts, has_images
from ..loading.buckets import Shape, pick
from ..loading.model import LoadedModel
from ..loading.programs import Arrays, Inputs
from .chunks import PREFILL, Call, chunk_inputs, plan_calls
from .sampling import (
    SamplingParameters,
    TopTokens,
    check_sampling_taken,
    sampling_arrays,
    top_tokens,
)


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

    Call `prefill`, then iterate over `generate`; `prefill` again for the next turn of a
    conversation. The state between calls is the cache on the devices, and for each row its last
    token, not yet in the cache, with its position. libgemma3's sessions do the same.

    The cache is given away to each call of a program. So a session whose call failed, or was
    interrupted, is at an end: whatever is asked of it later raises RuntimeError.
    Not for use by several threads at once.
    """

    def __init__(
        self,
        model: LoadedModel,
        shape: Shape,
        sampling: SamplingParameters | Sequence[SamplingParameters],
        stop_tokens: Sequence[int] = (),
        logprobs: int = 0,
    ) -> None:
        """An empty session in a bucket of the model's grid.

        `sampling` is that of every row, or of each of the first rows, the others being greedy. A
        row ends after one of `stop_tokens`. `logprobs` above 0 asks for that many likeliest
        tokens with each token, which takes one call of a program per token.
        """
        self._model = model
        self._shape = shape
        if isinstance(sampling, SamplingParameters):
            sampling = [sampling] * shape.batch
        check_sampling_taken(sampling, model.sampling_inputs, model.grid.source)
        self._sampling = sampling_arrays(sampling, shape.batch)
        self._stop_tokens = frozenset(stop_tokens)
        self._stop_inputs = np.full((shape.batch, STOP_TOKENS), -1, np.int32)
        self._stop_inputs[:, : len(stop_tokens)] = list(stop_tokens)[:STOP_TOKENS]  # [B,8]
        self._logprobs = logprobs
        self._generate_sizes = model.grid.tokens(ProgramName.GENERATE, shape)
        self._cache: Arrays | None = model.new_cache(shape)
        self._tokens = np.zeros(shape.batch, np.int32)
        self._positions = np.zeros(shape.batch, np.int32)
        self._remaining = np.zeros(shape.batch, np.int32)

    def prefill(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, images: Images = ()
    ) -> Step:
        """Take in one prompt per row and draw the first token of each.

        A row that has text already goes on from there: the token drawn last is fed first, then
        the prompt. An empty prompt leaves its row as it is, as do rows beyond the prompts; to
        begin a row afresh, `reset` it. `new_tokens` is the most tokens each row with a prompt is
        to get, this first one included, in place of what it was still to get. `images` has for
        each prompt the pixels of its images, or is empty; `vision.check_images` says whether they
        suit the prompts.

        Raises UsageError, with the session as it was, for more prompts than rows, no token at
        all, or a row that would outgrow the cache.
        """
        texts = self._texts(prompts, new_tokens)
        soft = encode_prompts(self._model, texts, images) if has_images(images) else None
        calls = plan_calls(self._model, self._shape, texts, images, PREFILL)
        fed = [row for row, text in enumerate(texts) if text]
        tops: list[list[TopTokens]] = [[] for _ in texts]
        with self._at_an_end_if_it_fails():
            # New arrays: devices that lag behind may still be reading those of an earlier call.
            self._tokens, self._positions = self._tokens.copy(), self._positions.copy()
            for ended, (tokens, logits) in self._feed_all(texts, calls, soft):
                self._tokens[ended] = np.asarray(tokens)[ended]
                self._add_top(tops, logits, ended)
        self._positions[fed] += np.array([len(texts[row]) for row in fed], np.int32)
        self._remaining[fed] = new_tokens
        new = [[int(self._tokens[row])] if text else [] for row, text in enumerate(texts)]
        return self._account(new, tops)

    def generate(self, chunk: int | None = None) -> Iterator[Step]:
        """Go on until every row has its tokens, has met a stop token or was finished.

        A step brings up to `chunk` tokens of each row, by default as many as the program gives.
        """
        while self._remaining.any():
            with self._at_an_end_if_it_fails():
                if self._logprobs or not self._generate_sizes:
                    step = self._decode_one()
                else:
                    step = self._generate_some(chunk)
            yield step

    def finish(self, row: int) -> None:
        """Ask for no more tokens of `row`."""
        self._remaining[row] = 0

    def reset(self, row: int) -> None:
        """Make `row` empty: its next prompt begins a text of its own.

        Raises IndexError when the session has no such row.
        """
        if not 0 <= row < self._shape.batch:
            raise IndexError(f"row: expected 0 to {self._shape.batch - 1}, got {row}")
        others = np.arange(self._shape.batch) != row
        self._tokens, self._positions, self._remaining = (
            np.where(others, values, np.int32(0))
            for values in (self._tokens, self._positions, self._remaining)
        )

    @contextlib.contextmanager
    def _at_an_end_if_it_fails(self) -> Iterator[None]:
        """Let go of the cache when the block fails: nobody knows what is in it by then."""
        if self._cache is None:
            raise RuntimeError(
                "the session is at an end: an earlier call of it failed or was interrupted, and "
                "its cache is lost; begin a new session"
            )
        try:
            yield
        except BaseException:
            self._cache = None
            raise

    def _texts(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """What each row is to be fed; raises UsageError where it has no room for it."""
        if len(prompts) > self._shape.batch or not any(prompts):
            raise UsageError(
                f"prompts: expected at least one token for one of the {self._shape.batch} rows of "
                f"the session, got {len(prompts)} prompts of {sum(map(len, prompts))} tokens"
            )
        texts = []
        for row, prompt in enumerate(prompts):
            position = int(self._positions[row])
            last = [int(self._tokens[row])] if prompt and position else []
            texts.append([*last, *prompt])
            needed = position + len(texts[row]) + new_tokens - 1  # the last one is not fed
            if prompt and needed > self._shape.cache:
                raise UsageError(
                    f"row {row}: {len(texts[row])} tokens and {new_tokens} new ones do not fit "
                    f"after {position}: the session has room for {self._shape.cache}; take a "
                    "larger cache, or reset the row"
                )
        return texts

    def _feed_all(
        self, texts: Sequence[Sequence[int]], calls: Sequence[Call], soft: SoftPrompts | None
    ) -> list[tuple[list[int], Arrays]]:
        """Run prefill calls; of each in which texts end their rows and its outputs."""
        ends = []
        for call in calls:
            outputs = self._feed(texts, call, soft)
            ended = [
                row
                for row, (start, length) in enumerate(call.rows)
                if length and start + length == len(texts[row])
            ]
            if ended:  # else the logits, a vocabulary for each row, are dropped at once
                ends.append((ended, outputs))
        return ends

    def _feed(self, texts: Sequence[Sequence[int]], call: Call, soft: SoftPrompts | None) -> Arrays:
        """Run one prefill call; outputs token [B] and logits [B,V], still on the devices.

        Texts begin at the positions of their rows.
        """
        inputs = chunk_inputs(call, texts, self._shape.batch, soft)
        inputs["start"] += self._positions
        return self._run(call.program, call.size, inputs)

    def _generate_some(self, chunk: int | None) -> Step:
        """Up to `chunk` tokens for every active row, drawn by one loop on the devices."""
        wanted = min(int(self._remaining.max()), chunk or max(self._generate_sizes))
        size = pick(wanted, self._generate_sizes)
        limits = np.minimum(self._remaining, min(wanted, size)).astype(np.int32)
        inputs = {
            "token": self._tokens, "position": self._positions, "limit": limits,
            "stop_tokens": self._stop_inputs,
        }  # fmt: skip
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
            ProgramName.DECODE, 1, {"token": self._tokens, "position": self._positions}
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
        """Call a program of this session's shape; its outputs. The cache changes in place.

        `inputs` are those besides the sampling inputs.
        """
        assert self._cache is not None, "checked on entering _at_an_end_if_it_fails"
        bucket = Bucket(program, self._shape.batch, tokens, self._shape.cache)
        loaded = self._model.program(bucket)
        outputs, self._cache = loaded({**inputs, **self._sampling}, self._cache)
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
