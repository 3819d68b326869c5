"""The goldens belong to the checkpoints the tests make, and are what their types say."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from .loader import (
    classifier_cases,
    embedder_cases,
    image_classifier_rows,
    image_classifier_sha256,
    output_cases,
    real_goldens,
    tiny_cases,
    vision_cases,
)
from .texts import TEXTS
from .tiny import TINY, fingerprint, shapes, weights, write_checkpoint
from .tiny_heads import (
    CLASSIFIERS,
    EMBEDDERS,
    label_count,
    write_classifier,
    write_embedder,
)
from .tiny_vision import LAYOUTS, TINY_VISION, pixels, vision_shapes, write_image_classifier
from .tiny_vision import write_checkpoint as write_vision_checkpoint


def test_every_tiny_config_has_goldens_and_every_golden_its_config():
    assert list(tiny_cases()) == list(TINY)


@pytest.mark.parametrize("name", TINY)
def test_tiny_checkpoint_is_byte_for_byte_the_one_the_goldens_were_made_from(
    name: str, tmp_path: Path
):
    assert fingerprint(write_checkpoint(name, tmp_path)) == tiny_cases()[name].sha256


@pytest.mark.parametrize("name", TINY)
def test_tiny_goldens_are_greedy_and_free_of_near_ties(name: str):
    case = tiny_cases()[name]
    window = min(TINY[name].get("sliding_window", 4096), 8)
    assert {1, 5, window + 3, 40} <= {len(prompt.tokens) for prompt in case.prompts}
    for prompt in case.prompts:
        assert sum(prompt.chunks) == len(prompt.tokens)
        assert len(prompt.generated) == len(prompt.best) == 24
        assert prompt.generated == tuple(step[0][0] for step in prompt.best)
        assert all(step[0][1] - step[1][1] > 1e-3 for step in prompt.best)
        assert len(set(prompt.generated)) > 7  # a loop would hide mistakes
    assert len(case.score.logprobs) == len(case.score.tokens) - 1
    assert -sum(case.score.logprobs) / len(case.score.logprobs) == pytest.approx(
        case.score.loss, abs=1e-5
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoint_holds_the_same_numbers_rounded(dtype: str, tmp_path: Path):
    raw = (write_checkpoint("bias", tmp_path, dtype) / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    for name, exact in weights("bias"):
        begin, end = header[name]["data_offsets"]
        words = np.frombuffer(raw[8 + length + begin : 8 + length + end], "<u2")
        if dtype == "bfloat16":
            stored = (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            stored = words.view(np.float16).astype(np.float32)
        assert tuple(header[name]["shape"]) == exact.shape == shapes(TINY["bias"])[name]
        np.testing.assert_allclose(stored, exact.ravel(), rtol=2**-8, atol=1e-7)
    assert len(header) - 1 == len(shapes(TINY["bias"]))


def test_real_goldens_cover_the_edges_of_chunks_and_of_the_window():
    lengths = [len(prompt.tokens) for prompt in real_goldens().prompts]
    assert len(lengths) >= 10
    assert {1, 31, 32, 33, 127, 128, 129, 511, 512, 513, 1500} <= set(lengths)


def test_real_goldens_are_greedy_and_free_of_near_ties():
    for prompt in real_goldens().prompts:
        assert prompt.tokens[0] == 2
        assert len(prompt.generated) == len(prompt.gaps) == 64
        assert min(prompt.gaps) > 1e-3
        assert len(set(prompt.generated)) >= 16  # a loop would hide mistakes
        assert [step[0][0] for step in prompt.best] == list(prompt.generated)[: len(prompt.best)]
        for step, gap in zip(prompt.best, prompt.gaps, strict=False):
            assert step[0][1] - step[1][1] == pytest.approx(gap, rel=1e-3, abs=1e-5)


def test_some_real_prompts_have_log_probabilities_in_both_precisions():
    prompts = real_goldens().prompts
    assert sum(len(prompt.best) == 64 for prompt in prompts) >= 3
    half = [prompt for prompt in prompts if prompt.bfloat16]
    assert len(half) >= 2
    for prompt in half:
        pairs = zip(prompt.best, prompt.bfloat16, strict=True)
        errors = [abs(v - w) for step, low in pairs for (_, v), w in zip(step, low, strict=True)]
        assert 1e-3 < max(errors) < 2.0  # another precision, the same model


def test_real_scores_are_means_and_texts_are_those_of_the_repository():
    real = real_goldens()
    for score in (real.score, real.score_bfloat16):
        assert len(score.tokens) == 200
        assert len(score.logprobs) == 199
        assert -sum(score.logprobs) / 199 == pytest.approx(score.loss, abs=2e-5)
    assert set(real.texts) == set(TEXTS)
    assert real.score.tokens[1:] == real.texts["essay"][:199]


def test_every_tiny_multimodal_config_has_goldens_and_every_golden_its_config():
    assert list(vision_cases()) == list(TINY_VISION)


@pytest.mark.parametrize("name", TINY_VISION)
def test_tiny_multimodal_checkpoint_is_the_one_the_goldens_were_made_from(
    name: str, tmp_path: Path
):
    assert fingerprint(write_vision_checkpoint(name, tmp_path)) == vision_cases()[name].sha256


@pytest.mark.parametrize("name", TINY_VISION)
def test_multimodal_goldens_are_greedy_and_have_an_image_for_each_block_of_soft_tokens(name: str):
    case, config = vision_cases()[name], TINY_VISION[name]
    per_image = config["mm_tokens_per_image"]
    assert {len(prompt.images) for prompt in case.prompts} == {0, 1, 2}
    for prompt in case.prompts:
        soft = prompt.tokens.count(config["image_token_index"])
        assert soft == per_image * len(prompt.images)
        assert prompt.generated == tuple(step[0][0] for step in prompt.best)
        assert all(step[0][1] - step[1][1] > 1e-3 for step in prompt.best)
        assert len(prompt.generated) == 12
    width = config["text_config"]["hidden_size"]
    assert np.asarray(case.features).shape == (3, per_image, width)
    pictures = pixels(name, 3)
    assert pictures.dtype == np.float32
    assert np.abs(pictures).max() <= 1.0


def test_layouts_differ_in_names_alone(tmp_path: Path):
    sizes = set()
    for layout in LAYOUTS:
        path = write_vision_checkpoint("image", tmp_path / layout, layout) / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        sizes.add((len(raw) - 8 - length, len(json.loads(raw[8 : 8 + length]))))
    text = shapes(TINY_VISION["image"]["text_config"])
    assert len(sizes) == 1
    assert sizes.pop()[1] == 1 + len(text) + len(vision_shapes(TINY_VISION["image"]))


def test_classifiers_are_those_the_goldens_were_made_from(tmp_path: Path):
    assert list(classifier_cases()) == list(CLASSIFIERS)
    for name, case in classifier_cases().items():
        assert fingerprint(write_classifier(name, tmp_path / name)) == case.sha256
        assert len({len(row.tokens) for row in case.rows}) == len(case.rows) == 4
        assert {len(row.scores) for row in case.rows} == {label_count(CLASSIFIERS[name])}


def test_embedding_models_are_those_the_goldens_were_made_from(tmp_path: Path):
    assert list(embedder_cases()) == list(EMBEDDERS)
    for name, case in embedder_cases().items():
        assert fingerprint(write_embedder(name, tmp_path / name)) == case.sha256
        assert len({len(row.tokens) for row in case.rows}) == len(case.rows) == 4
        for row in case.rows:
            assert np.linalg.norm(row.embedding) == pytest.approx(1.0, abs=1e-5)


def test_outputs_are_of_the_tiny_checkpoints_and_attend_to_nothing_ahead_but_images(tmp_path: Path):
    for name, case in output_cases().items():
        sees = name in TINY_VISION
        write = write_vision_checkpoint if sees else write_checkpoint
        assert fingerprint(write(name, tmp_path / name)) == case.sha256
        assert len(case.labels) == len(case.tokens) == case.hidden_states.shape[1]
        np.testing.assert_allclose(case.attentions.sum(-1), 1, atol=1e-5)
        ahead = np.triu(np.ones(case.attentions.shape[-2:]), 1) * case.attentions
        assert bool(ahead.any()) == sees
    assert fingerprint(write_image_classifier(tmp_path / "c")) == image_classifier_sha256()
    assert {len(row.images) for row in image_classifier_rows()} == {0, 1, 2}
