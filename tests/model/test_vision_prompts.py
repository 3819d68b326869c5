"""Prompts with images against transformers: in one call, in chunks, in a batch, on a mesh."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.cache import init_cache
from gemma3_export.model.image_mask import SoftTokens
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.pure.image_encoder import ImageEncoder
from gemma3_export.model.sharding import Sharder
from gemma3_export.model.vision_config import Gemma3Config
from gemma3_export.runtime.images.prompt import (
    ImageTokens,
    plan_prefill_with_images,
    soft_token_index,
)
from jax.sharding import AxisType, NamedSharding

from ..goldens.loader import Best, VisionPrompt, vision_cases
from ..goldens.tiny_vision import TINY_VISION, pixels, vision_weights

CACHE = 96
MOST_IMAGES = 7
TOLERANCE = 1e-4


class Model:
    """A tiny multimodal checkpoint, compiled for a mesh of the data-model family."""

    def __init__(self, name: str, mesh: dict[str, int]):
        self.name, self.config = name, Gemma3Config.from_dict(TINY_VISION[name])
        config = self.config
        self.tokens = ImageTokens(
            config.boi_token_index, config.image_token_index, config.eoi_token_index,
            config.mm_tokens_per_image,
        )  # fmt: skip
        self.text = CausalLM(config.text_config, jnp.dtype("float32"))
        encoder = ImageEncoder(config, jnp.dtype("float32"))
        sharder = Sharder(mesh)
        context = LoweringContext(sharder=sharder)
        devices = jax.make_mesh(
            tuple(mesh.values()), tuple(mesh), axis_types=(AxisType.Auto,) * len(mesh)
        )
        specs = {
            p.name: sharder.spec(p.name, p.axes, p.counts)
            for p in [*self.text.parameters(), *encoder.parameters()]
        }
        self.weights = {
            key: jax.device_put(value, NamedSharding(devices, specs[key]))
            for key, value in vision_weights(name)
        }
        encode = jax.jit(lambda w, images: encoder.encode(w, images, context))
        self.features = encode(self.weights, pixels(name, 3))

        def step(w, tokens, start, length, cache, soft):
            hidden, cache = self.text.forward(w, tokens, start, length, cache, context, soft)
            last = 0 if length is None else jnp.maximum(length - 1, 0)
            last = jnp.broadcast_to(last, start.shape)[:, None, None]
            logits = self.text.logits(w, jnp.take_along_axis(hidden, last, axis=1)[:, 0], context)
            return jax.nn.log_softmax(logits), cache

        self.step = jax.jit(step)

    def greedy(self, prompts: Sequence[VisionPrompt], sizes: Sequence[int]) -> list[list]:
        """Log-probabilities [V] of each step of each row, fed in prefill calls of `sizes`."""
        rows = [prompt.tokens for prompt in prompts]
        images = [image for prompt in prompts for image in prompt.images]
        chosen = np.resize([*images, 0], MOST_IMAGES)  # what follows the last is never looked at
        values = self.features[chosen].reshape(-1, self.features.shape[-1])
        index, offset = [], 0
        for prompt in prompts:  # the rows' images stand end to end in `values`
            own = soft_token_index(prompt.tokens, self.tokens)
            index.append(np.where(own >= 0, own + offset, -1))
            offset += self.tokens.per_image * len(prompt.images)
        cache = init_cache(self.config.text_config, len(rows), CACHE, jnp.dtype("float32"))
        latest = np.zeros((len(rows), self.config.text_config.vocab_size), np.float32)
        for call in plan_prefill_with_images(rows, self.tokens.soft, sizes):
            tokens = np.zeros((len(rows), call.size), np.int32)
            places = np.full((len(rows), call.size), -1, np.int32)
            for row, (start, length) in enumerate(call.rows):
                tokens[row, :length] = rows[row][start : start + length]
                places[row, :length] = index[row][start : start + length]
            starts, lengths = np.asarray(call.rows, np.int32).T
            got, cache = self.step(
                self.weights, tokens, starts, lengths, cache, SoftTokens(values, places)
            )
            latest = np.where(lengths[:, None] > 0, got, latest)
        steps = [latest]
        positions = np.asarray([len(row) for row in rows], np.int32)
        for _ in prompts[0].generated[1:]:
            token = steps[-1].argmax(-1).astype(np.int32)[:, None]
            got, cache = self.step(self.weights, token, positions, None, cache, None)
            steps.append(np.asarray(got))
            positions = positions + 1
        return [[step[row] for step in steps] for row in range(len(rows))]


_models: dict[tuple[str, str], Model] = {}


@pytest.fixture(params=TINY_VISION)
def model(request: pytest.FixtureRequest) -> Model:
    return _model(request.param, "1x1")


def _model(name: str, mesh: str) -> Model:
    data, width = map(int, mesh.split("x"))
    key = (name, mesh)
    if key not in _models:
        _models[key] = Model(name, {"data": data, "model": width})
    return _models[key]


def _prompts(model: Model) -> list[VisionPrompt]:
    return [prompt for prompt in vision_cases()[model.name].prompts if prompt.images]


def _check(steps: list[np.ndarray], golden: VisionPrompt) -> None:
    assert tuple(int(step.argmax()) for step in steps) == golden.generated
    for step, best in zip(steps, golden.best, strict=True):
        _check_step(step, best)


def _check_step(step: np.ndarray, best: Best) -> None:
    for token, logprob in best:
        assert step[token] == pytest.approx(logprob, abs=TOLERANCE)


def test_prompts_with_one_and_two_images_are_those_of_transformers(model: Model):
    for golden in _prompts(model):
        (steps,) = model.greedy([golden], sizes=(64,))
        _check(steps, golden)


def test_chunks_that_leave_images_whole_give_the_same(model: Model):
    for golden in _prompts(model):
        (steps,) = model.greedy([golden], sizes=(4, 18))
        _check(steps, golden)


def test_rows_of_a_batch_have_their_own_images_lengths_and_chunks(model: Model):
    goldens = [*_prompts(model)[1:4], _prompts(model)[0]]
    assert len({len(golden.tokens) for golden in goldens}) > 2
    for steps, golden in zip(model.greedy(goldens, sizes=(20,)), goldens, strict=True):
        _check(steps, golden)


@pytest.mark.parametrize("name", TINY_VISION)
def test_a_mesh_of_eight_devices_gives_the_same(name: str):
    model = _model(name, "2x4")
    goldens = _prompts(model)[:2]
    for steps, golden in zip(model.greedy(goldens, sizes=(64,)), goldens, strict=True):
        _check(steps, golden)


def test_prompt_without_images_is_the_same_with_the_images_program(model: Model):
    golden = vision_cases()[model.name].prompts[0]
    assert golden.images == ()
    (steps,) = model.greedy([golden], sizes=(8,))
    _check(steps, golden)
