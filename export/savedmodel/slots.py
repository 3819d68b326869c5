"""Signatures that leave the KV cache in the server: a slot for each text, an owner for each slot.

What a slot is doing stands in a table that is read and written under a mutex; its cache waits in
a staging area under the number of its owner. A call claims the slot under the mutex, takes the
cache out, works without the mutex, and puts the cache back only if the slot is still its own. So
calls on different slots run at the same time, a cache is never copied, and no call can see the
text of another: without the owner's number there is nothing to take out.

The caches are no variables: they take no room in the SavedModel, and none in the server before
their slot is used.
"""

# The stubs of TensorFlow that pyright brings lack operators and many functions.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from ...artifacts.manifest import ProgramName
from ...artifacts.serving.signatures import IDLE_SECONDS, SignatureName
from .calls import Calls, Flat, Generated, Shape
from .checks import Tensors, after, check_fit, check_limits, check_sampling, check_texts, require
from .requests import answered

# Columns of the table. Owner 0: the slot is free. Times are in seconds since 1970.
_OWNER, _BUSY, _TOUCHED, _POSITION, _TOKEN = range(5)
_COLUMNS = 5
_MOST_OWNER = 2**62
_MUTEX, _STAGE = "gemma3_slots_mutex", "gemma3_slots_caches"


class _Claim(NamedTuple):
    """A slot that a call works on: its number, its owner and its row of the table [5]."""

    slot: tf.Tensor
    owner: tf.Tensor
    row: tf.Tensor


class Slots(tf.Module):
    """The table of slots, and the signatures that use it."""

    def __init__(self, calls: Calls, count: int) -> None:
        """`count` slots, all free, for texts as long as the longest cache of one row."""
        super().__init__(name="slots")
        self.table = tf.Variable(
            tf.zeros([count, _COLUMNS], tf.int64), trainable=False, name="slots"
        )
        self._calls = calls
        self._count = count
        shapes = calls.shapes(ProgramName.GENERATE)
        self._shape = Shape(1, max(shape.cache for shape in shapes if shape.batch == 1))
        program = next(
            program
            for bucket, program in calls.programs.items()
            if bucket.program is ProgramName.GENERATE and self._shape == (1, bucket.cache)
        )
        self._cache = tuple((t.shape, tf.dtypes.as_dtype(t.dtype)) for t in program.cache)

    def signatures(self) -> dict[str, Callable[[Tensors], Tensors]]:
        """The functions of checked tensors, by the names of their signatures."""
        return {
            str(SignatureName.PREFILL_SLOT): self._prefill,
            str(SignatureName.DECODE_SLOT): self._decode,
            str(SignatureName.RELEASE_SLOT): self._release,
        }

    def _prefill(self, values: Tensors) -> Tensors:
        """A free slot takes in a text: the slot, its owner's number and the first token."""
        texts = check_texts(values, self._calls.manifest.model.vocab_size, 1)
        texts = check_fit(texts, 0, self._shape.cache)
        sampling = check_sampling(values, tf.constant(1))
        given = after([texts.lengths, *sampling], {"slot": values["slot"]})
        claim, old = self._take_free(given["slot"][0])
        with tf.control_dependencies([self._drop(old)]):
            empty = tuple(tf.identity(zeros) for zeros in self._calls.empty_cache(self._shape))
        first, cache = self._calls.prefill(self._shape, texts, sampling, empty)
        kept = self._put_back(claim, texts.lengths[0], first[0], cache)
        with tf.control_dependencies([kept]):
            return {
                "slot": claim.slot[None], "owner": claim.owner[None], "token": tf.identity(first)
            }  # fmt: skip

    def _decode(self, values: Tensors) -> Tensors:
        """The next tokens of a slot's text."""
        limit, stop = check_limits(values, tf.constant(1), self._calls.manifest.model.vocab_size)
        sampling = check_sampling(values, tf.constant(1))
        ready = after([limit, stop, *sampling], {"slot": values["slot"], "owner": values["owner"]})
        claim = self._claim(ready["slot"][0], ready["owner"][0], limit[0])
        cache = self._take_cache(claim.owner)
        token = tf.cast(claim.row[_TOKEN], tf.int32)[None]
        position = tf.cast(claim.row[_POSITION], tf.int32)[None]
        made, token, position, cache = self._calls.generate(
            self._shape, token, position, limit, stop, sampling, cache
        )
        kept = self._put_back(claim, position[0], token[0], cache)
        with tf.control_dependencies([kept]):
            made = Generated(tf.identity(made.tokens), tf.identity(made.counts))
        return answered(made, stop)

    def _release(self, values: Tensors) -> Tensors:
        """Give a slot back."""
        claim = self._claim(values["slot"][0], values["owner"][0], tf.constant(0))
        with tf.control_dependencies([self._drop(claim.owner)]):
            freed = self._locked(lambda table: self._write(claim.slot, tf.zeros_like(claim.row)))
        with tf.control_dependencies([freed]):
            return {"slot": claim.slot[None]}

    def _locked(self, work: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """What `work` makes of the table, while no other call reads or writes it."""
        mutex = tf.raw_ops.MutexV2(container="", shared_name=_MUTEX)
        lock = tf.raw_ops.MutexLock(mutex=mutex)
        with tf.control_dependencies([lock]):
            table = self.table.read_value()
        with tf.control_dependencies([table]):
            done = work(table)
        # Let go of only after the work: a context holds for the operations made inside it.
        with tf.control_dependencies([done]):
            released = tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
        with tf.control_dependencies([released]):
            return tf.identity(done)

    def _write(self, slot: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        """Write a row of the table; the row."""
        with tf.control_dependencies([self.table.scatter_nd_update([[slot]], row[None])]):
            return tf.identity(row)

    def _take_free(self, wanted: tf.Tensor) -> tuple[_Claim, tf.Tensor]:
        """Claim slot `wanted`, or any for -1; also the owner whose cache is to be dropped, or 0."""
        in_range = (wanted >= -1) & (wanted < self._count)
        known = require(in_range, "slot", f"0 to {self._count - 1}, or -1 for any", wanted)
        with tf.control_dependencies([known]):
            wanted = tf.identity(wanted)
        owner = tf.random.uniform([], 1, _MOST_OWNER, tf.int64)

        def claim(table: tf.Tensor) -> tf.Tensor:
            free = (table[:, _OWNER] == 0) | (table[:, _TOUCHED] < _now() - IDLE_SECONDS)
            chosen = (tf.range(self._count) == wanted) | (wanted == -1)
            slot = tf.argmax(tf.cast(free & chosen, tf.int32), output_type=tf.int32)
            found = tf.reduce_any(free & chosen)
            before = table[slot]
            row = tf.stack([owner, 1, _now(), 0, 0])
            written = tf.cond(found, lambda: self._write(slot, row), lambda: before)
            # A busy slot has its cache with the call that works on it, which will drop it.
            old = tf.where(before[_BUSY] == 0, before[_OWNER], 0)
            facts = tf.stack([tf.cast(found, tf.int64), tf.cast(slot, tf.int64), old])
            return tf.concat([facts, written], axis=0)

        result = self._locked(claim)
        free = require(
            result[0] == 1, "slot", "a free one, all that fit are busy or in use", wanted
        )
        with tf.control_dependencies([free]):
            result = tf.identity(result)
        return _Claim(tf.cast(result[1], tf.int32), result[3], result[3:]), result[2]

    def _claim(self, slot: tf.Tensor, owner: tf.Tensor, more: tf.Tensor) -> _Claim:
        """Claim a slot for its owner and `more` tokens; fails the call when it cannot be."""
        known = require((slot >= 0) & (slot < self._count), "slot",
                        f"0 to {self._count - 1}", slot)  # fmt: skip
        with tf.control_dependencies([known]):
            slot = tf.identity(slot)

        def claim(table: tf.Tensor) -> tf.Tensor:
            row = table[slot]
            fits = row[_POSITION] + tf.cast(more, tf.int64) <= self._shape.cache
            mine = (row[_OWNER] == owner) & (owner != 0)
            busy = row[_BUSY] == 1
            taken = tf.stack([owner, 1, _now(), row[_POSITION], row[_TOKEN]])
            ours = mine & ~busy & fits
            written = tf.cond(ours, lambda: self._write(slot, taken), lambda: row)
            facts = tf.stack([row[_OWNER] != 0, mine, ~busy, fits])
            with tf.control_dependencies([written]):
                return tf.concat([tf.cast(facts, tf.int64), row], axis=0)

        result = self._locked(claim)
        in_use, mine, idle, fits = tf.unstack(result[:4] == 1)
        number, row = tf.cast(slot, tf.int64), result[4:]
        # One after the other, so that the first reason is the one that is told.
        with tf.control_dependencies(
            [require(in_use, "slot", "one in use, this one is free", number)]
        ):
            mine = tf.identity(mine)
        foreign = require(mine, "owner", "the owner of the slot, another has it", number)
        with tf.control_dependencies([foreign]):
            idle = tf.identity(idle)
        waiting = require(idle, "slot", "one that is idle, this one is busy", number)
        with tf.control_dependencies([waiting]):
            fits = tf.identity(fits)
        room = require(fits, "max_new_tokens", f"at most {self._shape.cache} less the positions "
                       "in the cache", row[_POSITION])  # fmt: skip
        with tf.control_dependencies([room]):
            return _Claim(slot, tf.identity(owner), tf.identity(row))

    def _put_back(
        self, claim: _Claim, position: tf.Tensor, token: tf.Tensor, cache: Flat
    ) -> tf.Tensor:
        """End a claim: store the cache and the state of the text, if the slot is still ours."""
        state = [tf.cast(position, tf.int64), tf.cast(token, tf.int64)]

        def put(table: tf.Tensor) -> tf.Tensor:
            mine = table[claim.slot, _OWNER] == claim.owner

            def store() -> tf.Tensor:
                staged = tf.raw_ops.MapStage(
                    key=claim.owner, indices=tf.range(len(cache)), values=list(cache),
                    dtypes=[dtype for _, dtype in self._cache], shared_name=_STAGE,
                )  # fmt: skip
                with tf.control_dependencies([staged]):
                    return self._write(claim.slot, tf.stack([claim.owner, 0, _now(), *state]))

            stored = tf.cond(mine, store, lambda: tf.identity(claim.row))
            with tf.control_dependencies([stored]):
                return tf.identity(mine)

        with tf.control_dependencies([*cache, *state]):
            mine = self._locked(put)
        return require(mine, "slot", "one still in use, it was idle too long", claim.slot)

    def _take_cache(self, owner: tf.Tensor) -> Flat:
        """The cache of a claimed slot, which is then nowhere else."""
        values = tf.raw_ops.MapUnstage(
            key=owner, indices=tf.range(len(self._cache)),
            dtypes=[dtype for _, dtype in self._cache], shared_name=_STAGE,
        )  # fmt: skip
        for value, (shape, _) in zip(values, self._cache, strict=True):
            value.set_shape(shape)
        return tuple(values)

    def _drop(self, owner: tf.Tensor) -> tf.Tensor:
        """Forget the cache of an owner; 0 is nobody."""

        def drop() -> tf.Tensor:
            with tf.control_dependencies(self._take_cache(owner)):
                return tf.identity(owner)

        return tf.cond(owner != 0, drop, lambda: tf.identity(owner))


def _now() -> tf.Tensor:
    return tf.cast(tf.timestamp(), tf.int64)
