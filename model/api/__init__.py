"""Gemma 3 as EasyDeL's users call it: classes, caches, outputs and loading. No export uses it."""

from .cache import CacheMetadata, TransformerCache
from .classification import Gemma3ForSequenceClassification
from .language_model import Gemma3ForCausalLM, Gemma3ForConditionalGeneration
from .loading import load_weights, quantize_weights
from .multimodal import Gemma3Model
from .outputs import (
    Gemma3CausalLMOutputWithPast,
    Gemma3ModelOutputWithPast,
    Gemma3SequenceClassifierOutputWithPast,
    ModelOutput,
)
from .text import Gemma3TextModel

__all__ = [
    "CacheMetadata",
    "Gemma3CausalLMOutputWithPast",
    "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration",
    "Gemma3ForSequenceClassification",
    "Gemma3Model",
    "Gemma3ModelOutputWithPast",
    "Gemma3SequenceClassifierOutputWithPast",
    "Gemma3TextModel",
    "ModelOutput",
    "TransformerCache",
    "load_weights",
    "quantize_weights",
]
