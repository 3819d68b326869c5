"""The programs of a bundle: pure functions of (weights, inputs, cache) with fixed shapes.

Names, shapes and order of inputs and outputs are artifacts/convention.py's; what they mean is
said in artifacts/FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..artifacts.convention import ATTENTIONS, HIDDEN_STATES, IGNORED_LABEL, takes_images
from ..artifacts.manifest import Bucket, ProgramName
from ..model.cache import KVCache, LayerCache, update_tokens
from ..model.image_mask import SoftTokens
from ..model.lowering.context import LoweringContext
from ..model.observe import Observed, Watch
from ..model.pure.causal_lm import CausalLM
from ..model.pure.classifier import SequenceClassifier
from ..model.pure.embedder import TextEmbedder
from ..model.pure.image_encoder import ImageEncoder
from ..model.steps import last_place, row_at
from .sampling import SamplingInputs, choose_largest, sample

Array = jax.Array
Flat = tuple[Array, ...]
ProgramFunction = Callable[[Flat, Flat, Flat], tuple[Flat, Flat]]

# Rows of the score program that meet the head at once: [64, 262144] float32 is 64 MB.
_SCORE_ROWS = 64


def define(
    bucket: Bucket,
    model: CausalLM | SequenceClassifier | TextEmbedder | ImageEncoder,
    names: tuple[str, ...],
    context: LoweringContext,
    score_outputs: tuple[str, ...] = (),
) -> ProgramFunction:
    """The function of the bucket's program; `names` orders the weights tuple.

    `score_outputs` is what score gives besides log-probabilities.
    """
    if isinstance(model, SequenceClassifier):
        assert bucket.program in (ProgramName.CLASSIFY, ProgramName.CLASSIFY_IMAGES)
        return _classify(bucket, model, names, context)
    if isinstance(model, TextEmbedder):
        assert bucket.program is ProgramName.EMBED
        return _embed(model, names, context)
    if isinstance(model, ImageEncoder):
        assert bucket.program is ProgramName.ENCODE_IMAGE
        return _encode_image(model, names, context)
    net = _Net(model, names, context)
    if bucket.program in (ProgramName.SCORE, ProgramName.SCORE_IMAGES):
        return _score(bucket, net, score_outputs)
    build = {
        ProgramName.PREFILL: _prefill,
        ProgramName.PREFILL_IMAGES: _prefill,
        ProgramName.DECODE: _decode,
        ProgramName.GENERATE: _generate,
    }[bucket.program]
    return build(bucket, net)


@dataclass(frozen=True)
class _Net:
    """The model with its weights given as a tuple and its cache as a flat tuple.

    The last of the cache is the token ids of the rows, [B,S] int32.
    """

    model: CausalLM
    names: tuple[str, ...]
    context: LoweringContext

    def hidden(
        self, weights: Flat, tokens: Array, start: Array, length: Array | None, cache: Flat,
        soft: SoftTokens | None = None,
    ):  # fmt: skip
        params = dict(zip(self.names, weights, strict=True))
        *layers, kept = cache
        hidden, updated = self.model.forward(
            params, tokens, start, length, unflatten_cache(tuple(layers)), self.context, soft
        )
        return hidden, (*flatten_cache(updated), self._keep(kept, tokens, start, length))

    def observe(
        self, weights: Flat, tokens: Array, start: Array, length: Array, cache: Flat,
        soft: SoftTokens | None, watch: Watch,
    ) -> tuple[Array, Flat, Observed]:  # fmt: skip
        params = dict(zip(self.names, weights, strict=True))
        *layers, kept = cache
        hidden, updated, observed = self.model.observe(
            params, tokens, start, length, unflatten_cache(tuple(layers)), self.context, soft,
            watch,
        )  # fmt: skip
        cache = (*flatten_cache(updated), self._keep(kept, tokens, start, length))
        return hidden, cache, observed

    def _keep(self, kept: Array, tokens: Array, start: Array, length: Array | None) -> Array:
        return update_tokens(kept, tokens, start, length, self.context.platform)

    def logits(self, weights: Flat, hidden: Array) -> Array:
        params = dict(zip(self.names, weights, strict=True))
        return self.model.logits(params, hidden, self.context)

    def step(self, weights: Flat, token: Array, position: Array, cache: Flat):
        """Logits [B,V] after one token per row, and the cache."""
        hidden, cache = self.hidden(weights, token[:, None], position, None, cache)
        return self.logits(weights, hidden[:, 0]), cache

    def sample(
        self, logits: Array, position: Array, sampling: SamplingInputs, cache: Flat
    ) -> Array:
        largest = choose_largest(self.context, logits.shape[-1])
        return sample(logits, position, sampling, cache[-1], largest)

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size


def flatten_cache(cache: KVCache) -> Flat:
    """Key and value of layer 0, of layer 1, ...; of int8 followed by their scales [B,K,S]."""
    parts = []
    for layer in cache:
        parts += [layer.key, layer.value]
        if layer.key_scale is not None and layer.value_scale is not None:
            parts += [layer.key_scale[..., 0], layer.value_scale[..., 0]]
    return tuple(parts)


def unflatten_cache(arrays: Flat) -> KVCache:
    """The inverse of flatten_cache."""
    if len(arrays) < 4 or arrays[2].ndim == arrays[0].ndim:
        return tuple(LayerCache(*arrays[i : i + 2]) for i in range(0, len(arrays), 2))
    return tuple(
        LayerCache(key, value, key_scale[..., None], value_scale[..., None])
        for key, value, key_scale, value_scale in (
            arrays[i : i + 4] for i in range(0, len(arrays), 4)
        )
    )


def _prefill(bucket: Bucket, net: _Net) -> ProgramFunction:
    drawing = len(SamplingInputs._fields)

    def prefill(weights: Flat, inputs: Flat, cache: Flat) -> tuple[Flat, Flat]:
        tokens, start, length, *images = inputs[:-drawing]
        soft = SoftTokens(*images) if images else None
        hidden, cache = net.hidden(weights, tokens, start, length, cache, soft)
        logits = net.logits(weights, row_at(hidden, last_place(length)))
        sampling = SamplingInputs(*inputs[-drawing:])
        return (net.sample(logits, start + length, sampling, cache), logits), cache

    return prefill


def _encode_image(
    model: ImageEncoder, names: tuple[str, ...], context: LoweringContext
) -> ProgramFunction:
    def encode_image(weights: Flat, inputs: Flat, cache: Flat) -> tuple[Flat, Flat]:
        params = dict(zip(names, weights, strict=True))
        return (model.encode(params, inputs[0], context),), cache

    return encode_image


def _decode(bucket: Bucket, net: _Net) -> ProgramFunction:
    def decode(weights: Flat, inputs: Flat, cache: Flat) -> tuple[Flat, Flat]:
        token, position, *sampling = inputs
        logits, cache = net.step(weights, token, position, cache)
        chosen = net.sample(logits, position + 1, SamplingInputs(*sampling), cache)
        return (chosen, logits), cache

    return decode


def _generate(bucket: Bucket, net: _Net) -> ProgramFunction:
    B, T = bucket.batch, bucket.tokens

    def generate(weights: Flat, inputs: Flat, cache: Flat) -> tuple[Flat, Flat]:
        token, position, limit, stop_tokens, *rest = inputs
        sampling = SamplingInputs(*rest)

        def active(count: Array, stopped: Array) -> Array:
            return (count < limit) & (stopped == 0)

        def more(state):
            step, _, _, _, count, stopped, _ = state
            return (step < T) & jnp.any(active(count, stopped))

        def body(state):
            # Tied to the loop's state, the weights are read as they are in every step.
            # Untied, XLA hoists their conversion to float32 out of the loop: four times the
            # memory and three times the traffic.
            held, state = jax.lax.optimization_barrier((weights, state))
            step, token, position, tokens, count, stopped, cache = state
            logits, cache = net.step(held, token, position, cache)
            going = active(count, stopped)
            chosen = jnp.where(going, net.sample(logits, position + 1, sampling, cache), token)
            written = jnp.where(going, chosen, 0)[:, None]
            tokens = jax.lax.dynamic_update_slice(tokens, written, (jnp.int32(0), step))
            is_stop = jnp.any(chosen[:, None] == stop_tokens, axis=1)
            stopped = jnp.where(going & is_stop, 1, stopped)
            advance = going.astype(jnp.int32)
            return step + 1, chosen, position + advance, tokens, count + advance, stopped, cache

        zero = jnp.zeros_like(token)
        start = (jnp.int32(0), token, position, jnp.zeros((B, T), jnp.int32), zero, zero, cache)
        _, token, position, tokens, count, stopped, cache = jax.lax.while_loop(more, body, start)
        return (tokens, count, stopped, token, position), cache

    return generate


def _classify(
    bucket: Bucket, model: SequenceClassifier, names: tuple[str, ...], context: LoweringContext
) -> ProgramFunction:
    def classify(weights: Flat, inputs: Flat, cache: Flat) -> tuple[Flat, Flat]:
        tokens, start, length, *images = inputs
        assert bool(images) == takes_images(bucket.program)
        params = dict(zip(names, weights, strict=True))
        scores, updated = model.scores(
            params, tokens, start, length, unflatten_cache(cache), context,
            SoftTokens(*images) if images else None,
        )  # fmt: skip
        return (scores,), flatten_cache(updated)

    return classify


def _embed(
    model: TextEmbedder, names: tuple[str, ...], context: LoweringContext
) -> ProgramFunction:
    def embed(weights: Flat, inputs: Flat, cache: Flat) -> tuple[Flat, Flat]:
        tokens, length = inputs
        params = dict(zip(names, weights, strict=True))
        return (model.embed(params, tokens, length, context),), cache

    return embed


def _score(bucket: Bucket, net: _Net, outputs: tuple[str, ...]) -> ProgramFunction:
    B, T = bucket.batch, bucket.tokens
    watch = Watch(HIDDEN_STATES in outputs, bucket.cache if ATTENTIONS in outputs else 0)

    def label_logprobs(weights: Flat, hidden: Array, labels: Array) -> Array:
        """hidden [R,D], labels [R] -> log-probability of each label [R]."""
        logits = net.logits(weights, hidden)
        index = jnp.clip(labels, 0, net.vocab_size - 1)[:, None]
        chosen = jnp.take_along_axis(logits, index, axis=-1)[:, 0]
        return jnp.where(labels == IGNORED_LABEL, 0.0, chosen - jax.nn.logsumexp(logits, axis=-1))

    def score(weights: Flat, inputs: Flat, cache: Flat) -> tuple[Flat, Flat]:
        tokens, start, length, *images, labels = inputs
        soft = SoftTokens(*images) if images else None
        hidden, cache, seen = net.observe(weights, tokens, start, length, cache, soft, watch)

        @jax.jit  # a function of the program: called for each piece rather than written again
        def piece_logprobs(hidden: Array, labels: Array) -> Array:
            flat = label_logprobs(weights, hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1))
            return flat.reshape(B, -1)

        width = max(1, _SCORE_ROWS // B)
        pieces = [
            piece_logprobs(hidden[:, t : t + width], labels[:, t : t + width])
            for t in range(0, T, width)
        ]
        extras = tuple(jnp.stack(arrays) for arrays in seen if arrays)
        return (jnp.concatenate(pieces, axis=1), *extras), cache

    return score
