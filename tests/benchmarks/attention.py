"""Which form of attention is fastest, by chunk and cache: what model/attention.py chooses by.

Shapes are those of the 270M. Prints milliseconds of one layer in bfloat16, medians of interleaved
repeats, cache written included; `*` marks the form that is chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from gemma3_export.model.attention import (
    Blocks,
    Visibility,
    blocked_attention,
    choose_blocks,
    whole_attention,
)
from gemma3_export.model.cache import LayerCache, update_layer
from gemma3_export.model.config import LayerType
from gemma3_export.model.context import LoweringContext
from measure import interleaved

HEADS, SIZE, WINDOW = 4, 256, 512
CONTEXT = LoweringContext()
CHUNKS = [Blocks(128, 256), Blocks(256, 256), Blocks(256, 512), Blocks(512, 512)]
STEPS = [Blocks(1, 512), Blocks(1, 1024), Blocks(1, 2048)]
CASES = [  # kind, tokens, slots, tokens in the cache
    (LayerType.SLIDING, 512, WINDOW, (0, 1024)),
    (LayerType.FULL, 512, 2048, (0, 1024)),
    (LayerType.FULL, 2048, 8192, (0, 4096)),
    (LayerType.SLIDING, 1, WINDOW, (2048,)),
    (LayerType.FULL, 1, 2048, (512, 2000)),
    (LayerType.FULL, 1, 8192, (512, 2048, 8000)),
    (LayerType.FULL, 1, 32768, (512, 2048, 8192, 32000)),
]


def layer(kind: LayerType, tokens: int, slots: int, blocks: Blocks | None) -> Callable:
    """A function of (start, query, new, old) -> (mixed, cache), which is written in place."""

    def run(start, query, new, old):
        visible = Visibility.of(kind, slots, WINDOW, start, tokens, None)
        if blocks is None:
            mixed = whole_attention(query, new, old, visible, 1 / 16, None, CONTEXT)
        else:
            mixed = blocked_attention(query, new, old, visible, 1 / 16, None, CONTEXT, blocks)
        length = None if tokens == 1 else jnp.full_like(start, tokens)
        return mixed, update_layer(kind, old, new, CONTEXT.after(mixed, start), length)

    return jax.jit(run, donate_argnums=3)


def bound(function: Callable, start: int, tokens: int, slots: int) -> Callable[[], object]:
    """The function on random keys, keeping its cache from call to call."""
    keys = iter(jax.random.split(jax.random.key(0), 5))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape, jnp.float32).astype(jnp.bfloat16)

    new = LayerCache(normal(1, 1, tokens, SIZE), normal(1, 1, tokens, SIZE))
    cache = [LayerCache(normal(1, 1, slots, SIZE), normal(1, 1, slots, SIZE))]
    query = normal(1, tokens, HEADS, SIZE).astype(jnp.float32)

    def call() -> object:
        mixed, cache[0] = function(jnp.array([start], jnp.int32), query, new, cache[0])
        return mixed

    return call


def main() -> None:
    """Measure every form at every chunk and cache."""
    print(f"jax {jax.__version__}")
    for kind, tokens, slots, starts in CASES:
        forms = [None, *(STEPS if tokens == 1 else CHUNKS)]
        functions = {form: layer(kind, tokens, slots, form) for form in forms}
        chosen = choose_blocks(CONTEXT, 1, tokens, HEADS, slots)
        for start in starts:
            runs = {
                f"{'whole' if form is None else f'{form.queries}x{form.keys}'}"
                f"{'*' if form == chosen else ''}": bound(function, start, tokens, slots)
                for form, function in functions.items()
            }
            times = interleaved(runs, repeats=7)
            text = "  ".join(f"{name} {seconds * 1e3:.2f}" for name, seconds in times.items())
            print(
                f"{kind:17} tokens {tokens:4} slots {slots:5} after {start:5}: {text}", flush=True
            )


if __name__ == "__main__":
    main()
