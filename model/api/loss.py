"""Losses, as transformers computes them: in float32, labels of -100 left out.

A call that knows its padding leaves that out of the loss too, as EasyDeL does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

IGNORED = -100


class LossMetrics(NamedTuple):
    """The second value that compute_loss returns."""

    loss: Array
    """[] float32."""


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean of -ln p(label) over the labels that are not -100, [] float32; NaN without any.

    logits [...,V], labels [...] int.
    """
    logits = logits.astype(jnp.float32)
    counts = labels != IGNORED
    index = jnp.where(counts, labels, 0)[..., None]
    label_logit = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - label_logit
    count = jnp.sum(counts.astype(jnp.float32))
    return jnp.sum(jnp.where(counts, loss, 0.0)) / count


def next_token_loss(logits: Array, labels: Array, valid: Array) -> Array:
    """Of logits [B,T,V] and labels [B,T]: logits t are compared with label t + 1. [] float32.

    Only where both are tokens by `valid` [B,T] bool: nothing predicts the first after padding.
    """
    targets = jnp.where(valid[:, :-1] & valid[:, 1:], labels[:, 1:], IGNORED)
    return cross_entropy(logits[:, :-1], targets)


def classification_loss(logits: Array, labels: Array) -> Array:
    """Of class logits [B,C] and labels [B]; with one class a regression, mean square error."""
    if logits.shape[-1] == 1:
        error = logits[:, 0].astype(jnp.float32) - labels.astype(jnp.float32)
        return jnp.mean(error * error)
    return cross_entropy(logits, labels)
