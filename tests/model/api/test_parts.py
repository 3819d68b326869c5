"""Parts of the models called alone, put together to what transformers gives after each layer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gemma3_export.model.api import (
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ForSequenceClassification,
    Gemma3Model,
    Gemma3TextModel,
)
from gemma3_export.model.config import LayerType
from gemma3_export.model.text import (
    Gemma3Attention,
    Gemma3DecoderLayer,
    Gemma3MLP,
    Gemma3RMSNorm,
)
from gemma3_export.model.vision import Gemma3MultiModalProjector
from gemma3_export.model.vision_config import Gemma3Config

from ...goldens.loader import output_cases, vision_cases
from ...goldens.tiny_vision import TINY_VISION, pixels
from ..small import SMALL, small_config
from .models import compiled, ids, left_padded, small_model, tiny_model, tiny_seeing

TOLERANCE = 1e-4
READS = ["default", "image"]


def stack(name: str) -> Any:
    return tiny_seeing(name).get_decoder() if name == "image" else tiny_model(name).get_decoder()


@pytest.mark.parametrize("name", READS)
def test_a_layer_called_alone_gives_the_next_hidden_states_and_its_attentions(name: str):
    """Each from transformers' own of the layer before."""
    case, model = output_cases()[name], stack(name)
    given = case.hidden_states[:, None].astype(np.float32)
    types = {}
    if name == "image":
        types["token_type_ids"] = (ids(case.tokens) == 252).astype(jnp.int32)
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, Gemma3DecoderLayer)
        got = compiled(layer, output_attentions=True)(given[number], **types)
        after = got.hidden_states
        if number + 1 == len(model.layers):
            after = model.norm(after)
        np.testing.assert_allclose(after[0], case.hidden_states[number + 1], atol=TOLERANCE)
        np.testing.assert_allclose(got.attention_weight[0], case.attentions[number], atol=TOLERANCE)


def test_a_layer_is_its_attention_and_its_mlp_between_its_norms():
    case, model = output_cases()["default"], stack("default")
    x = jnp.asarray(case.hidden_states[0][None], jnp.float32)
    layer = model.layers[0]
    attention, mlp, norm = layer.self_attn, layer.mlp, layer.input_layernorm
    assert (type(attention), type(mlp), type(norm)) == (Gemma3Attention, Gemma3MLP, Gemma3RMSNorm)
    out = compiled(attention, output_attentions=True)(norm(x))
    np.testing.assert_allclose(out.attention_weight[0], case.attentions[0], atol=TOLERANCE)
    middle = x + layer.post_attention_layernorm(out.attention_output)
    inner = compiled(mlp)(layer.pre_feedforward_layernorm(middle))
    done = middle + layer.post_feedforward_layernorm(inner)
    np.testing.assert_allclose(done[0], case.hidden_states[1], atol=TOLERANCE)
    assert compiled(attention)(norm(x)).attention_weight is None


@pytest.mark.parametrize("kind", list(LayerType))
def test_a_padded_row_is_the_row_alone_to_a_layer(kind: LayerType):
    model = small_model()
    layer = model.model.layers[SMALL.layer_types.index(kind)]
    run = compiled(layer)
    rows, mask = left_padded([[1] * 9, [1] * 6])
    x = np.random.default_rng(1).normal(size=(2, 9, SMALL.hidden_size)).astype(np.float32)
    both = run(x, attention_mask=mask).hidden_states
    np.testing.assert_allclose(both[1, 3:], run(x[1:, 3:]).hidden_states[0], atol=1e-5)
    turned = run(x[1:, 3:], position_ids=2 * jnp.arange(6)[None]).hidden_states[0]
    assert np.abs(turned - both[1, 3:]).max() > 1e-3
    assert rows.shape == mask.shape
    with pytest.raises(
        ValueError, match=r"attention_mask: expected \[2,9\], .* got \[2, 1, 9, 9\]"
    ):
        layer(x, jnp.ones((2, 1, 9, 9), bool))


def test_a_layer_of_a_bidirectional_model_sees_ahead():
    config = small_config(use_bidirectional_attention=True)
    layer = Gemma3DecoderLayer(config, 0, jnp.dtype("f4"), nnx.Rngs(3))
    x = jax.random.normal(jax.random.key(1), (1, 8, config.hidden_size))
    weights = compiled(layer, output_attentions=True)(x).attention_weight[0, 0]
    seen = np.abs(np.subtract.outer(range(8), range(8))) < config.sliding_window // 2 + 1
    np.testing.assert_array_equal(np.asarray(weights) > 0, seen)


def test_parts_are_made_by_the_number_of_their_layer_or_its_kind():
    for number, kind in enumerate(SMALL.layer_types):
        made = [Gemma3Attention(SMALL, n, jnp.dtype("f4"), nnx.Rngs(3)) for n in (number, kind)]
        assert {part.layer_type for part in made} == {kind}
    with pytest.raises(TypeError, match="precision"):
        Gemma3Attention(SMALL, 0, jnp.dtype("f4"), nnx.Rngs(3), precision=None)  # pyright: ignore


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_parts_take_hidden_states_of_any_float(dtype: str):
    with pytest.raises(TypeError, match="param_dtype"):
        Gemma3MLP(SMALL, jnp.dtype(dtype), nnx.Rngs(3), param_dtype=dtype)  # pyright: ignore
    mlp = Gemma3MLP(SMALL, jnp.dtype(dtype), nnx.Rngs(3))
    attention = Gemma3Attention(SMALL, 0, jnp.dtype(dtype), nnx.Rngs(3))
    x = np.random.default_rng(1).normal(size=(1, 4, SMALL.hidden_size))
    for given in (jnp.asarray(x, jnp.bfloat16), jnp.asarray(x, jnp.float32)):
        assert mlp(given).dtype == attention(given).attention_output.dtype == jnp.float32
    gate, up, down = (
        np.asarray(part.weight[...], np.float64)
        for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    )
    wide = np.asarray(jax.nn.gelu(jnp.asarray(x @ gate.T, jnp.float32), approximate=True))
    bound = 1e-4 if dtype == "float32" else 0.2  # of numbers up to 11
    np.testing.assert_allclose(
        mlp(jnp.asarray(x, jnp.float32)), (wide * (x @ up.T)) @ down.T, atol=bound
    )


def test_the_tower_and_the_projector_give_transformers_soft_tokens():
    model = tiny_seeing("image")
    assert isinstance(model.get_projector(), Gemma3MultiModalProjector)
    seen = compiled(model.get_vision_tower())(pixels("image", 3))
    features = compiled(model.get_projector())(seen)
    expected = np.asarray(vision_cases()["image"].features)
    np.testing.assert_allclose(features, expected, atol=TOLERANCE)
    sized = compiled(model.get_image_features, image_sizes=[(28, 28)])  # unused, as on the page
    np.testing.assert_allclose(sized(pixel_values=pixels("image", 3)), expected, atol=TOLERANCE)
    inner = compiled(model.model.get_image_features)(pixel_values=pixels("image", 3))
    np.testing.assert_allclose(inner, expected, atol=TOLERANCE)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_called_alone_gives_logits_before_the_softcap(tied: bool):
    model = small_model(tie_word_embeddings=tied, final_logit_softcapping=2.0)
    output = compiled(model)(ids([5, 9, 3]))
    plain = compiled(model.get_lm_head())(output.last_hidden_state)
    np.testing.assert_allclose(2 * np.tanh(plain / 2), output.logits, atol=1e-4)
    capped = compiled(model.apply_lm_head)(hidden_states=output.last_hidden_state)
    np.testing.assert_allclose(capped, output.logits, atol=1e-5)


def test_a_norm_begins_as_kernel_init_says():
    class HalfNorm(Gemma3RMSNorm):
        @staticmethod
        def kernel_init(key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None):
            return jnp.full(shape, 0.5, dtype)

    x = jax.random.normal(jax.random.key(1), (2, 16))
    made = [kind(16, 1e-6, jnp.dtype("f4"), nnx.Rngs(0)) for kind in (Gemma3RMSNorm, HalfNorm)]
    np.testing.assert_allclose(made[1](x), made[0](x) / 2, rtol=1e-6)
    assert not np.asarray(made[0].weight[...]).any()
    ones = Gemma3RMSNorm.kernel_init(
        key=jax.random.key(0), shape=(3, 2), dtype=jnp.bfloat16, out_sharding=None
    )
    np.testing.assert_array_equal(ones, jnp.ones((3, 2), jnp.bfloat16))
    mesh = jax.make_mesh((8,), ("model",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    with jax.set_mesh(mesh):
        spread = Gemma3RMSNorm.kernel_init(
            jax.random.key(0), (16,), jnp.float32, out_sharding=where
        )
    assert spread.sharding.is_equivalent_to(where, 1)


def test_the_spread_of_a_projector_is_the_multimodal_config_s():
    config = json.loads(json.dumps(TINY_VISION["image"])) | {"initializer_range": 0.5}
    model = Gemma3ForConditionalGeneration(Gemma3Config.from_dict(config), rngs=nnx.Rngs(1))
    weight = model.get_projector().mm_input_projection_weight[...]
    assert float(jnp.std(weight.astype(jnp.float32))) == pytest.approx(0.5, rel=0.05)
    text = model.get_embedding().weight[...].astype(jnp.float32)
    spread = dataclasses.asdict(model.text_config)["initializer_range"]
    assert float(jnp.std(text)) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(
    "kind",
    [
        Gemma3TextModel, Gemma3ForCausalLM, Gemma3Model, Gemma3ForConditionalGeneration,
        Gemma3ForSequenceClassification,
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"param_dtype": jnp.float32}, "kept in dtype, bfloat16, and not in float32; pass"),
        ({"precision": jax.lax.Precision.HIGHEST}, "products add up in float32 whatever the dtype"),
        ({"param_dtype": nnx.Rngs(0)}, "expected a dtype, got Rngs; random streams are passed by"),
    ],
)  # fmt: skip
def test_easydel_s_second_dtype_and_precision_are_answered(kind: type, given: dict, message: str):
    seeing = Gemma3Config.from_dict(TINY_VISION["image"])
    reads = kind in (Gemma3TextModel, Gemma3ForCausalLM)
    config = seeing.text_config if reads else seeing
    with pytest.raises(TypeError, match=message):
        kind(config, jnp.bfloat16, **given)
    with pytest.raises(TypeError, match="'mesh'"):
        kind(config, jnp.bfloat16, mesh=None)
    same = kind(config, jnp.float32, jnp.float32, None, rngs=nnx.Rngs(0))  # EasyDeL's order
    assert same.get_embedding().weight[...].dtype == jnp.float32
