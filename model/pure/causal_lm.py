"""The boundary of the model: pure functions of a dictionary of weights. flax stays behind it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ..cache import KVCache
from ..config import Gemma3TextConfig
from ..decoder import Gemma3ForCausalLM
from ..image_mask import SoftTokens
from ..lowering.context import LoweringContext
from ..lowering.quantized import UNQUANTIZED, ParameterSpec, Recipe
from ..observe import Observed, Watch
from .module import Params, PureModule

Array = jax.Array


class CausalLM:
    """Gemma3ForCausalLM as pure functions: `forward` and `logits` take the weights by name."""

    def __init__(self, config: Gemma3TextConfig, dtype: jnp.dtype, recipe: Recipe = UNQUANTIZED):
        self.config, self.dtype = config, jnp.dtype(dtype)
        plain = dataclasses.replace(config, bits=None)  # the recipe says how weights are kept
        self._module = PureModule(
            lambda rngs: Gemma3ForCausalLM(plain, self.dtype, rngs=rngs), recipe
        )

    def parameters(self) -> list[ParameterSpec]:
        """Every weight, in the order of the weight store."""
        return sorted(self._module.parameters(), key=lambda spec: store_order(spec.name))

    def checkpoint_parameters(self) -> list[ParameterSpec]:
        """The same as the checkpoint has them, before they are quantised."""
        return sorted(self._module.unquantized(), key=lambda spec: store_order(spec.name))

    def init(self, seed: int) -> dict[str, Array]:
        """Random weights with the config's initializer_range, for tests and shape studies."""
        return self._module.init(seed)

    def forward(
        self, params: Params, tokens: Array, start: Array, length: Array | None, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None = None,
    ) -> tuple[Array, KVCache]:  # fmt: skip
        """Hidden states [B,T,D] after the final norm, and the updated cache.

        tokens [B,T], start [B] and length [B] are int32; see Gemma3TextModel.
        """
        model = self._module.bind(params).model
        return model.extend(tokens, start, length, cache, context, soft)

    def observe(
        self, params: Params, tokens: Array, start: Array, length: Array, cache: KVCache,
        context: LoweringContext, soft: SoftTokens | None, watch: Watch,
    ) -> tuple[Array, KVCache, Observed]:  # fmt: skip
        """`forward`, and what `watch` asks for."""
        model = self._module.bind(params).model
        return model.observe(tokens, start, length, cache, context, soft, watch)

    def logits(self, params: Params, hidden: Array, context: LoweringContext) -> Array:
        """hidden [...,D] -> logits [...,V] float32."""
        return self._module.bind(params).apply_lm_head(hidden, context)


_WITHIN_LAYER = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj", "post_attention_layernorm",
    "pre_feedforward_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    "post_feedforward_layernorm",
)  # fmt: skip

_WITHIN_MODULE = ("weight", "weight_scale", "bias")


def store_order(name: str) -> tuple[int, int, int, int]:
    """Embeddings, then layers in order, then the rest.

    q, k, v and gate, up are neighbours with their weights ahead of scales and biases, so that a
    host may map each group as one matrix.
    """
    parts = name.split(".")
    if "layers" not in parts:
        return (0, 0, len(name), 0) if "embed_tokens" in parts else (2, 0, len(name), 0)
    at = parts.index("layers")
    module = ".".join(parts[at + 2 : -1])
    return (1, int(parts[at + 1]), _WITHIN_MODULE.index(parts[-1]), _WITHIN_LAYER.index(module))
