"""Every class, method, field and default that EasyDeL's pages of Gemma 3 name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gemma3_export.model.api import (
    Gemma3CausalLMOutputWithPast,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ForSequenceClassification,
    Gemma3Model,
    Gemma3ModelOutputWithPast,
    Gemma3TextModel,
    ModelOutput,
    TransformerCache,
    load_weights,
)
from gemma3_export.model.api.loading import weight_name
from gemma3_export.model.config import (
    ConfigError,
    EasyDeLGradientCheckPointers,
    Gemma3TextConfig,
)
from gemma3_export.model.lowering.context import local_context
from gemma3_export.model.lowering.quantized import QuantizedWeight
from gemma3_export.model.sharding import NAMED_AXES, get_partition_rules, match_partition_rule
from gemma3_export.model.text import Gemma3RMSNorm
from gemma3_export.model.vision_config import Gemma3Config, SiglipVisionConfig
from jax.sharding import PartitionSpec as P

from ...goldens.tiny_vision import TINY_VISION, pixels, vision_weights
from ..small import SMALL, small_config
from .models import compiled, ids, small_model, tiny_model

FLOAT = jnp.dtype(jnp.float32)
SEEING = Gemma3Config.from_dict(TINY_VISION["image"])


# Configs


def test_custom_arguments_are_set_on_the_config_itself():
    config = small_config()
    assert (config.gradient_checkpointing, config.bits) == (EasyDeLGradientCheckPointers.NONE, None)
    policy = EasyDeLGradientCheckPointers.NOTHING_SAVEABLE
    assert config.attach_custom_arguments(policy, bits=8) is config
    assert (config.gradient_checkpointing, config.bits) == (policy, 8)
    with pytest.raises(ConfigError, match="bits: expected 4, 8 or null, got 3"):
        config.attach_custom_arguments(bits=3)
    assert (config.gradient_checkpointing, config.bits) == (policy, 8)
    config.attach_custom_arguments()
    assert config == small_config()


def test_what_training_asks_of_a_config():
    assert Gemma3TextConfig.get_weight_decay_exclusions() == ()
    assert Gemma3TextConfig.rng_keys() == ("params", "dropout", "fcm")
    assert Gemma3TextConfig.model_type == "gemma3_text"
    assert small_config().get_partition_rules() == get_partition_rules()
    assert SEEING.get_partition_rules(("data", "model")) == get_partition_rules(("data", "model"))
    assert SMALL.get_text_config() is SMALL
    assert SEEING.get_text_config() is SEEING.text_config


def test_granted_positions_are_the_model_s_unless_limited():
    config = small_config()
    assert config.granted_freq_max_position_embedding == config.max_position_embeddings
    assert config.granted_mask_max_position_embedding == config.max_position_embeddings
    limited = small_config(freq_max_position_embeddings=9, mask_max_position_embeddings=5)
    assert limited.granted_freq_max_position_embedding == 9
    assert limited.granted_mask_max_position_embedding == 5
    assert small_config(max_position_embeddings=7).granted_mask_max_position_embedding == 7
    for most in ({"max_position_embeddings": 5}, {"mask_max_position_embeddings": 5}):
        model = small_model(**most)
        assert compiled(model)(ids([1] * 5)).logits.shape[1] == 5
        with pytest.raises(ValueError, match="a call of 6 tokens: the config grants at most 5"):
            model(ids([1] * 6))


def test_sections_of_a_multimodal_config_may_be_dictionaries_or_left_out():
    config = Gemma3Config(None, {"image_size": 32})
    assert config.text_config == Gemma3TextConfig()
    assert config.vision_config == SiglipVisionConfig(image_size=32)
    assert Gemma3Config({"hidden_size": 64}, None).text_config.hidden_size == 64
    assert Gemma3Config.from_dict(SEEING.to_dict()) == SEEING


def test_weights_begin_with_the_deviation_of_initializer_range_and_norms_at_one():
    config = small_config(initializer_range=0.05, hidden_size=256, vocab_size=512)
    model = Gemma3ForCausalLM(config, FLOAT, rngs=nnx.Rngs(params=1))
    assert float(jnp.std(model.model.embed_tokens.weight[...])) == pytest.approx(0.05, rel=0.02)
    assert not model.model.norm.weight[...].any()
    ones = Gemma3RMSNorm.kernel_init(jax.random.key(0), (3, 2), jnp.float32)
    np.testing.assert_array_equal(ones, np.ones((3, 2), np.float32))


# Outputs


def causal_output() -> Gemma3CausalLMOutputWithPast:
    layer = jnp.arange(6, dtype=jnp.bfloat16).reshape(1, 2, 3)
    return Gemma3CausalLMOutputWithPast(
        loss=jnp.float32(1 / 3), logits=layer.astype(jnp.float32) / 7,
        past_key_values=small_model().init_cache(1, 4, starts=1),
        hidden_states=(layer, layer + 1), image_hidden_states=None,
    )  # fmt: skip


def test_an_output_is_a_mapping_and_a_tuple_of_what_is_there():
    output = causal_output()
    assert list(output) == ["loss", "logits", "past_key_values", "hidden_states"]
    assert len(output) == 4
    assert "attentions" not in output
    assert output["logits"] is output.logits is output[1] is output.to_tuple()[1]
    assert output[:2] == (output.loss, output.logits)
    assert dict(output)["loss"] is output.loss
    with pytest.raises(KeyError, match="attentions"):
        output["attentions"]
    assert (output == causal_output(), output == output) == (False, True)
    assert {output: 1}[output] == 1


def model_output() -> Gemma3ModelOutputWithPast:
    causal = causal_output()
    return Gemma3ModelOutputWithPast(
        causal.hidden_states[-1], jnp.ones((1, 4, 3)), causal.past_key_values, causal.hidden_states
    )


BOTH_OUTPUTS = pytest.mark.parametrize("make", [model_output, causal_output])


@BOTH_OUTPUTS
def test_an_output_is_replaced_never_changed(make: Callable[[], ModelOutput]):
    output = make()
    other = output.replace(hidden_states=None)
    assert (other.hidden_states, other.past_key_values) == (None, output.past_key_values)
    assert output.hidden_states is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(output, "hidden_states", None)  # noqa: B010
    with pytest.raises(TypeError, match="losses"):
        output.replace(losses=None)


@BOTH_OUTPUTS
def test_an_output_goes_through_a_dictionary(make: Callable[[], ModelOutput]):
    output = make()
    values = output.to_dict()
    assert list(values) == [field.name for field in dataclasses.fields(output)]
    assert values["attentions"] is None
    assert values["past_key_values"]["max_length"] == 4
    back = type(output).from_dict(data=values)
    assert type(back) is type(output)
    assert back.hidden_states is output.hidden_states
    assert isinstance(back.past_key_values, TransformerCache)
    with pytest.raises(TypeError, match="unknown"):
        type(output).from_dict({"unknown": 1})


@BOTH_OUTPUTS
def test_an_output_goes_through_json_to_the_last_bit(make: Callable[[], ModelOutput]):
    output = make()
    text = output.to_json(indent=1)
    assert json.loads(text)["hidden_states"][1]["shape"] == [1, 2, 3]
    back = type(output).from_json(json_str=text)
    assert type(back) is type(output)
    assert jax.tree.structure(back) == jax.tree.structure(output)
    for one, other in zip(jax.tree.leaves(output), jax.tree.leaves(back), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [Gemma3ModelOutputWithPast, Gemma3CausalLMOutputWithPast])
def test_fields_of_outputs_are_none_by_default_and_jit_gives_outputs(kind: type[ModelOutput]):
    assert all(field.default is None for field in dataclasses.fields(kind))
    output = jax.jit(lambda x: kind(last_hidden_state=x, hidden_states=(x, x)))(jnp.ones(2))
    assert isinstance(output, kind)
    assert list(output) == ["last_hidden_state", "hidden_states"]


# Classes


def test_parts_of_the_text_models():
    for model in (small_model(), small_model(tie_word_embeddings=False)):
        text = model.get_decoder()
        assert isinstance(text, Gemma3TextModel)
        assert text.get_decoder() is text is model.model
        assert model.get_embedding() is text.get_embedding() is text.embed_tokens
        tied = model.config.tie_word_embeddings
        head = text.embed_tokens if tied else model.lm_head
        assert model.get_lm_head().weight is head.weight
        for refusing in (model.get_encoder, text.get_encoder, text.get_lm_head):
            with pytest.raises(NotImplementedError):
                refusing()


def test_the_head_is_applied_with_its_softcap():
    model = small_model(final_logit_softcapping=2.0)
    output = compiled(model)(ids([5, 6, 7]))
    plain = output.last_hidden_state @ model.get_lm_head().weight[...].T
    np.testing.assert_allclose(output.logits, 2 * np.tanh(plain / 2), atol=1e-5)
    np.testing.assert_allclose(
        model.apply_lm_head(output.last_hidden_state), output.logits, atol=1e-5
    )


def test_parts_of_the_multimodal_models():
    model = Gemma3ForConditionalGeneration(SEEING, FLOAT)
    inner = model.model
    assert isinstance(inner, Gemma3Model)
    assert model.get_vision_tower() is model.get_encoder() is inner.get_encoder()
    assert inner.get_encoder() is inner.vision_tower
    assert model.get_projector() is inner.multi_modal_projector
    assert model.get_language_model() is inner.language_model is inner.get_decoder()
    assert model.get_decoder() is inner.language_model
    assert model.get_embedding() is inner.get_embedding() is inner.language_model.embed_tokens
    assert model.get_lm_head().weight is model.get_embedding().weight  # tied
    with pytest.raises(NotImplementedError):
        inner.get_lm_head()
    assert model.loss_type == "ForCausalLM"
    assert (model._task_type, model._model_type) == ("image-text-to-text", "gemma3")
    assert (model._supports_video, model._uses_mrope) == (False, False)
    assert model.init_cache(2, 9).max_length == inner.init_cache(2, 9).max_length == 9


def test_the_multimodal_head_has_the_softcap_of_the_text_too():
    text = dataclasses.replace(SEEING.text_config, final_logit_softcapping=3.0)
    model = Gemma3ForConditionalGeneration(dataclasses.replace(SEEING, text_config=text), FLOAT)
    model = load_weights(model, dict(vision_weights("image")))
    output = compiled(model)(ids([2, 5, 6]))
    assert 2 < float(jnp.max(jnp.abs(output.logits))) <= 3
    again = compiled(model.apply_lm_head)(hidden_states=output.last_hidden_state)
    np.testing.assert_allclose(again, output.logits, atol=1e-5)


def test_parts_of_the_classifier():
    model = Gemma3ForSequenceClassification(small_config(num_labels=3), FLOAT)
    assert model.get_task_head() is model.score
    assert model.score.weight.get_value().shape == (3, SMALL.hidden_size)
    assert model.get_decoder() is model.model
    assert model.get_embedding() is model.model.embed_tokens
    for name in ("get_lm_head", "get_encoder"):
        with pytest.raises(NotImplementedError):
            getattr(model, name)()
    with pytest.raises(ValueError, match="a model of text sees none"):
        model(ids([1]), pixel_values=jnp.zeros((1, 3, 28, 28)))


def test_images_that_do_not_fill_their_places_are_refused():
    model = load_weights(
        Gemma3ForConditionalGeneration(SEEING, FLOAT), dict(vision_weights("image"))
    )
    with pytest.raises(ValueError, match=r"have 3 image tokens \(id 252\), 1 images need 4"):
        model(ids([2, 250, 252, 252, 252, 251]), pixels("image", 1))
    with pytest.raises(ValueError, match="pixel_values need input_ids"):
        model(inputs_embeds=jnp.zeros((1, 2, 64)), pixel_values=pixels("image", 1))


@pytest.mark.parametrize(
    "model",
    [
        Gemma3TextModel(SMALL, FLOAT),
        Gemma3ForCausalLM(small_config(tie_word_embeddings=False), FLOAT),
        Gemma3ForConditionalGeneration(SEEING, FLOAT),
        Gemma3ForSequenceClassification(SEEING, FLOAT),
    ],
    ids=lambda model: type(model).__name__,
)
def test_partition_rules_find_the_weights_of_every_class_at_their_own_paths(model: nnx.Module):
    rules = get_partition_rules(NAMED_AXES)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        name = ".".join(map(str, path))
        spec = match_partition_rule(rules, name)
        assert len(spec) <= len(variable.get_value().shape), name
        assert spec == match_partition_rule(rules, weight_name(name)), name
        if "vision_tower" in name and "q_proj.weight" in name:
            assert spec == P("tp", ("fsdp", "sp"))


# Weights


def test_a_missing_weight_and_one_of_another_shape_are_named():
    model = Gemma3ForConditionalGeneration(SEEING, FLOAT)
    given: dict[str, Any] = dict(vision_weights("image"))
    norm = "multi_modal_projector.mm_soft_emb_norm.weight"
    with pytest.raises(ValueError, match=r"mm_soft_emb_norm.weight: expected shape \[48\], got"):
        load_weights(model, {**given, norm: np.zeros(3)})
    given.pop("model.norm.weight")
    with pytest.raises(KeyError, match=r"model\.norm\.weight"):
        load_weights(model, given)


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.02), (4, 0.4)])
def test_bits_keep_matrices_in_fewer_bits_and_change_little(bits: int, bound: float):
    model, exact = tiny_model("default", bits=bits), tiny_model("default")
    layer = model.model.layers[0].self_attn.q_proj.weight.get_value()
    assert isinstance(layer, QuantizedWeight)
    assert layer.numbers.dtype == (jnp.int8 if bits == 8 else jnp.uint8)
    assert layer.numbers.nbytes * 8 == bits * np.prod(layer.shape)
    embedding = model.get_embedding().weight.get_value()
    assert embedding.numbers.dtype == jnp.int8
    assert not isinstance(model.model.norm.weight.get_value(), QuantizedWeight)
    # One projection: whole tiny models amplify what random weights round away.
    x = np.random.default_rng(2).normal(size=(1, 64)).astype(np.float32)
    full = exact.model.layers[0].self_attn.q_proj.weight[...]
    rounded = local_context().product(jnp.asarray(x), layer, "heads")
    error = np.abs(np.asarray(rounded) - x @ np.asarray(full).T).max()
    assert 0 < error < bound
    losses = [compiled(m)(ids([2, 5, 6]), labels=ids([2, 5, 6])).loss for m in (model, exact)]
    assert 0 < abs(float(losses[0] - losses[1])) < 20 * bound
