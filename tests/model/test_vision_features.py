"""Soft tokens of tiny towers against transformers, on one device and on meshes of eight."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model import sharding, vision
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.lowering.target import Platform
from gemma3_export.model.pure.image_encoder import ImageEncoder
from gemma3_export.model.sharding import Sharder
from gemma3_export.model.vision_config import Gemma3Config
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ..goldens.loader import vision_cases
from ..goldens.tiny_vision import TINY_VISION, pixels, vision_weights

MESHES = {
    "1x1": {"data": 1, "model": 1},
    "2x4": {"data": 2, "model": 4},
    "named": {"dp": 1, "fsdp": 2, "ep": 1, "tp": 2, "sp": 2},
}


def encoder_and_weights(name: str, dtype: str = "float32") -> tuple[ImageEncoder, dict]:
    encoder = ImageEncoder(Gemma3Config.from_dict(TINY_VISION[name]), jnp.dtype(dtype))
    given = dict(vision_weights(name))
    return encoder, {p.name: given[p.name].astype(p.dtype) for p in encoder.parameters()}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", TINY_VISION)
def test_soft_tokens_are_those_of_transformers(name: str, mesh: str):
    encoder, weights = encoder_and_weights(name)
    sharder = Sharder(MESHES[mesh])
    context = LoweringContext(sharder=sharder)
    devices = jax.make_mesh(
        tuple(MESHES[mesh].values()), tuple(MESHES[mesh]),
        axis_types=(AxisType.Auto,) * len(MESHES[mesh]),
    )  # fmt: skip
    specs = {p.name: sharder.spec(p.name, p.axes, p.counts) for p in encoder.parameters()}
    placed = {
        key: jax.device_put(value, NamedSharding(devices, specs[key]))
        for key, value in weights.items()
    }
    images = jax.device_put(pixels(name, 3), NamedSharding(devices, PartitionSpec()))
    soft = jax.jit(lambda params, given: encoder.encode(params, given, context))(placed, images)
    assert soft.dtype == jnp.float32
    np.testing.assert_allclose(soft, vision_cases()[name].features, atol=1e-4)


def test_four_devices_share_the_tower_that_divides_and_report_the_one_that_does_not():
    shared, refused = Sharder(MESHES["2x4"]), Sharder(MESHES["2x4"])
    for sharder, name in ((shared, "image"), (refused, "image_beyond_window")):
        for p in encoder_and_weights(name)[0].parameters():
            sharder.spec(p.name, p.axes, p.counts)
    assert shared.fallbacks == set()
    assert any("q_proj.weight: vision_heads of 6" in line for line in refused.fallbacks)


def lowered_for_eight_devices() -> str:
    """The program of the tiny tower as StableHLO, weights split as the rules say."""
    encoder, sharder = encoder_and_weights("image")[0], Sharder(MESHES["2x4"])
    weights = {
        p.name: jax.ShapeDtypeStruct(
            p.shape, p.dtype, sharding=sharder.sharding(sharder.spec(p.name, p.axes, p.counts))
        )
        for p in encoder.parameters()
    }
    images = jax.ShapeDtypeStruct((2, 3, 28, 28), jnp.float32)
    context = LoweringContext(sharder=sharder)
    encode = jax.jit(lambda params, given: encoder.encode(params, given, context))
    return encode.trace(weights, images).lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize("axis", ["vision_heads", "vision_ffw", "projected", "images"])
def test_a_rule_of_the_vision_side_decides_what_its_program_splits(
    axis: str, monkeypatch: pytest.MonkeyPatch
):
    (mesh_axis,) = sharding.DATA_MODEL_RULES[axis]
    before = lowered_for_eight_devices()
    monkeypatch.setitem(sharding.DATA_MODEL_RULES, axis, ())  # pyright: ignore
    after = lowered_for_eight_devices()
    assert after.count(f'"{mesh_axis}"') < before.count(f'"{mesh_axis}"')


def test_an_image_encodes_alike_alone_and_among_others():
    encoder, weights = encoder_and_weights("image")
    encode = jax.jit(lambda given: encoder.encode(weights, given, LoweringContext()))
    images = pixels("image", 3)
    together = encode(images)
    for index in range(3):
        np.testing.assert_allclose(encode(images[index : index + 1])[0], together[index], atol=1e-6)


@pytest.mark.parametrize("platform", [Platform.CPU, Platform.TPU])
def test_queries_in_blocks_attend_as_all_at_once(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    """On a CPU head by head, elsewhere all heads together: the same soft tokens."""
    encoder, weights = encoder_and_weights("image_beyond_window")  # 64 patches
    images = pixels("image_beyond_window", 2)
    monkeypatch.setattr(vision, "_QUERY_BLOCK", 16)
    blocks = jax.jit(lambda given: encoder.encode(weights, given, LoweringContext(platform)))
    loops = blocks.lower(images).as_text().count("stablehlo.while")
    layers = encoder.config.vision_config.num_hidden_layers
    assert loops == layers * (2 if platform == Platform.CPU else 1)
    expected = vision_cases()["image_beyond_window"].features[:2]
    np.testing.assert_allclose(blocks(images), expected, atol=1e-4)


def test_bfloat16_weights_give_nearly_the_same():
    encoder, weights = encoder_and_weights("image", "bfloat16")
    soft = encoder.encode(weights, pixels("image", 3), LoweringContext())
    features = np.asarray(vision_cases()["image"].features)
    error = np.abs(np.asarray(soft) - features)
    assert soft.dtype == jnp.float32
    assert 1e-4 < error.mean() < 0.03 * features.std()


def test_pixels_of_another_size_are_not_encoded():
    encoder, weights = encoder_and_weights("image")
    with pytest.raises(AssertionError, match=r"expected N of \(3, 28, 28\)"):
        encoder.encode(weights, jnp.zeros((1, 3, 30, 28)), LoweringContext())


def test_config_of_the_tiny_checkpoints_is_read_whole():
    config = Gemma3Config.from_dict(TINY_VISION["image_beyond_window"])
    given = TINY_VISION["image_beyond_window"]["vision_config"]
    assert given.items() - dataclasses.asdict(config.vision_config).items() == {
        ("model_type", "siglip_vision_model")
    }
    assert not config.text_config.tie_word_embeddings
    assert config.patches_per_token_side == 2
