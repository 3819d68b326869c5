"""`bits`: of weights from a checkpoint, of random ones, and set when the model is there already."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gemma3_export.model.api import (
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ForSequenceClassification,
    Gemma3TextModel,
    load_weights,
    quantize_weights,
)
from gemma3_export.model.lowering.quantized import QuantizedWeight, apply_scales, unpack
from gemma3_export.model.lowering.recipes import Scheme
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.pure.classifier import SequenceClassifier
from gemma3_export.model.vision_config import Gemma3Config

from ...goldens.tiny_vision import TINY_VISION
from ..small import small_config, small_weights
from .models import compiled, ids, small_model

FLOAT = jnp.dtype(jnp.float32)
WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "tie_word_embeddings": False}


def schemes(model: nnx.Module) -> dict[str, Scheme]:
    """How each matrix of the text stack and its head is kept."""
    values = {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.iter_graph(model)
        if isinstance(variable, nnx.Param)
    }
    return {
        name: value.scheme if isinstance(value, QuantizedWeight) else Scheme.NONE
        for name, value in values.items()
        if len(value.shape) == 2 and "vision" not in name and "mm_" not in name
    }


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "kind", [Gemma3TextModel, Gemma3ForCausalLM, Gemma3ForSequenceClassification]
)
def test_random_weights_are_kept_in_the_bits_of_the_config(kind: type, bits: int):
    config = small_config(**WIDE, bits=bits)
    model, plain = (
        kind(c, FLOAT, rngs=nnx.Rngs(1)) for c in (config, small_config(**WIDE))
    )  # fmt: skip
    layer = Scheme.INT8 if bits == 8 else Scheme.INT4
    for name, scheme in schemes(model).items():
        wanted = layer if "_proj" in name else Scheme.INT8
        assert scheme == (Scheme.NONE if name == "score.weight" else wanted), name
    own, exact = (m.get_decoder().layers[0].mlp.up_proj.weight.get_value() for m in (model, plain))
    numbers = unpack(own.numbers, 32) if bits == 4 else own.numbers
    error = np.abs(apply_scales(numbers, own.scale) - exact)  # the same random numbers, rounded
    assert 0 < error.max() < (0.3 if bits == 4 else 0.01)
    tokens = ids([5, 9, 3])
    name = "last_hidden_state" if kind is Gemma3TextModel else "logits"
    got, expected = (getattr(compiled(m)(tokens), name) for m in (model, plain))
    assert np.abs(got - expected).max() > 0


def test_the_multimodal_model_begins_in_bits_too_but_for_its_eyes():
    text = TINY_VISION["image"]["text_config"] | {"bits": 8}
    config = Gemma3Config.from_dict(TINY_VISION["image"] | {"text_config": text})
    model = Gemma3ForConditionalGeneration(config, FLOAT, rngs=nnx.Rngs(1))
    assert set(schemes(model).values()) == {Scheme.INT8}
    eyes = model.get_vision_tower().vision_model.encoder.layers[0].mlp.fc1.weight.get_value()
    assert eyes.dtype == FLOAT


def test_bits_set_after_the_weights_are_refused_until_these_are_in_them():
    """attach_custom_arguments(bits=) on the config of a model that is there."""
    model, tokens = small_model(), ids([5, 9, 3])
    plain = compiled(model)(tokens).logits
    model.config.attach_custom_arguments(bits=8)
    for call in (
        lambda: model(tokens),
        lambda: model.model(tokens),
        lambda: compiled(model)(tokens),
    ):
        with pytest.raises(ValueError, match=r"config.bits is 8, and the weights are kept as none"):
            call()
    assert quantize_weights(model) is model
    rounded = compiled(model)(tokens).logits
    weights = {name: np.asarray(w) for name, w in small_weights(small_config()).items()}
    loaded = load_weights(Gemma3ForCausalLM(small_config(bits=8), FLOAT), weights)
    np.testing.assert_array_equal(rounded, compiled(loaded)(tokens).logits)
    assert np.abs(rounded - plain).max() > 0
    model.config.attach_custom_arguments("nothing_saveable")  # bits are None again
    with pytest.raises(ValueError, match=r"config.bits is None, and the weights are kept as int8"):
        model(tokens)
    again = load_weights(model, weights)
    np.testing.assert_allclose(compiled(again)(tokens).logits, plain, atol=1e-5)


def test_a_bidirectional_model_refuses_other_bits_as_well():
    config = small_config(use_bidirectional_attention=True)
    model = Gemma3TextModel(config, FLOAT, rngs=nnx.Rngs(1))
    config.attach_custom_arguments(bits=8)
    with pytest.raises(ValueError, match=r"config\.bits is 8"):
        model(ids([5, 9]))


def test_numbers_that_are_not_known_cannot_be_quantised():
    config = small_config(bits=8)
    with pytest.raises(ValueError, match=r"\.weight: bits asks .* they are not known here"):
        jax.eval_shape(
            lambda: nnx.state(Gemma3TextModel(config, FLOAT, rngs=nnx.Rngs(1)))
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"bits asks for quantised numbers"):
        quantize_weights(Gemma3TextModel(config, FLOAT))


def test_what_the_export_traces_goes_by_its_recipe_and_not_by_the_config():
    config = small_config(bits=8)
    for model in (CausalLM(config, FLOAT), SequenceClassifier(config, 3, FLOAT)):
        weights = model.init(1)
        assert {str(w.dtype) for w in weights.values()} == {"float32"}
        assert [spec.name for spec in model.parameters()] == [
            spec.name for spec in model.checkpoint_parameters()
        ]
