"""Heads over a text stack: over the vocabulary, tied to the embeddings or not, and over classes."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from .config import Gemma3TextConfig
from .lowering.context import LoweringContext, local_context, softcap
from .steps import row_at
from .text import Gemma3TextScaledWordEmbedding, Linear, as_operand

Array = jax.Array


class HasEmbedding(Protocol):
    """A text stack, alone or with a vision tower."""

    def get_embedding(self) -> Gemma3TextScaledWordEmbedding:
        """The token embeddings."""
        ...


StackT = TypeVar("StackT", bound=HasEmbedding)


class TiedHead(nnx.Module):
    """The token embeddings as a language model head: it shares their weight."""

    def __init__(self, embedding: Gemma3TextScaledWordEmbedding):
        self.weight = embedding.weight

    def __call__(self, x: Array, context: LoweringContext | None = None) -> Array:
        """x [...,D] -> [...,V] float32."""
        weight = self.weight.get_value()
        return (context or local_context()).product(as_operand(x), weight, "embed to vocab")


class StackWithHead(nnx.Module, Generic[StackT]):
    """A text stack and, in subclasses, a head."""

    def __init__(self, model: StackT, config: Gemma3TextConfig):
        self.model, self.text_config = model, config

    def get_embedding(self) -> Gemma3TextScaledWordEmbedding:
        """The token embeddings."""
        return self.model.get_embedding()


class LanguageModel(StackWithHead[StackT]):
    """A text stack with a head over the vocabulary; `lm_head` unless it is tied."""

    def __init__(
        self, model: StackT, config: Gemma3TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None
    ):
        """`config` is of the text."""
        super().__init__(model, config)
        if not config.tie_word_embeddings:
            shape = (config.vocab_size, config.hidden_size)
            self.lm_head = Linear(shape, ("vocab_out", "embed"), config, dtype, rngs)

    def get_lm_head(self) -> Linear | TiedHead:
        """The language model head, without the softcap; the embeddings' where they are tied."""
        tied = self.text_config.tie_word_embeddings
        return TiedHead(self.get_embedding()) if tied else self.lm_head

    def apply_lm_head(self, hidden_states: Array, context: LoweringContext | None = None) -> Array:
        """hidden_states [...,D] -> logits [...,V] float32, with final_logit_softcapping if set."""
        logits = self.get_lm_head()(hidden_states, context)
        return softcap(logits, self.text_config.final_logit_softcapping)


class Classifier(StackWithHead[StackT]):
    """A text stack with a head over classes; config.num_labels counts them."""

    def __init__(
        self, model: StackT, config: Gemma3TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None
    ):
        """`config` is of the text."""
        super().__init__(model, config)
        shape, axes = (config.num_labels, config.hidden_size), ("labels", "pooled")
        self.score = Linear(shape, axes, config, dtype, rngs)

    def score_at(self, hidden: Array, index: Array, context: LoweringContext) -> Array:
        """Logits of the classes [B,C] float32 at one token of each row: hidden [B,T,D], index [B].

        final_logit_softcapping is for tokens and not applied.
        """
        return self.score(row_at(hidden, index), context)
