"""SavedModels of models that see images, classify and embed, against the StableHLO runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.classify import classify
from gemma3_export.runtime.requests.embed import embed
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

from ..goldens import tiny_heads, tiny_vision
from ..goldens.tiny import write_checkpoint
from . import requests
from .conftest import ask_tensorflow, export

TEXTS = [[2, 9, 14, 200, 31, 7, 90], [2, 40, 5]]
READ = {"tokens": ["int32", [TEXTS[0], [*TEXTS[1], 0, 0, 0, 0]]], "lengths": ["int32", [7, 3]]}


def make(folder: Path, checkpoint: Path, *flags: object) -> Path:
    done = export(
        "--mesh", "1x1", "--checkpoint", checkpoint, "--out", folder / "bundle",
        "--dtype", "float32", "--format", "savedmodel", *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


def ask(bundle: Path, signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
    answers = ask_tensorflow(bundle / "saved_model" / "1", [(signature, inputs), ("warmup", {})])
    for answer in answers:
        assert "error" not in answer, answer
    return answers[0]["outputs"]


def test_images_stand_where_the_prompt_has_them(tmp_path: Path):
    checkpoint = tiny_vision.write_checkpoint("image", tmp_path / "checkpoint")
    bundle = make(tmp_path, checkpoint, "--prefill", "8", "--cache", 48, "--generate", 4)
    model = LoadedModel.load(bundle, "1x1")
    vision = model.bundle.manifest.vision
    assert vision is not None
    image = [vision.begin_token_id, *[vision.soft_token_id] * vision.tokens_per_image,
             vision.end_token_id]  # fmt: skip
    # The chunk of 8 would end within the second image: it must end before it.
    prompt = [2, 5, *image, 7, 8, 9, *image, 11, 12]
    pixels = tiny_vision.pixels("image", 2)
    expected = generate(
        model, [prompt], SamplingParameters(), max_new_tokens=8, ignore_eos=True, images=[pixels]
    )
    inputs = requests.generate([prompt], 8, pixels=["float32", pixels.tolist()])
    outputs = ask(bundle, "generate_images", inputs)
    assert outputs["tokens"] == [expected[0].tokens]


@pytest.mark.parametrize("flags", [("int8", "--kv-dtype", "int8"), ("int4",)], ids=str)
def test_quantised_weights_are_variables_and_give_the_tokens_of_the_stablehlo_runtime(
    tmp_path: Path, flags: tuple[str, ...]
):
    checkpoint = write_checkpoint("default", tmp_path / "checkpoint")
    bundle = make(
        tmp_path, checkpoint, "--prefill", "8", "--cache", 48, "--generate", 4,
        "--quantize", *flags,
    )  # fmt: skip
    model = LoadedModel.load(bundle, "1x1")
    (expected,) = generate(
        model, TEXTS[:1], SamplingParameters(), max_new_tokens=12, ignore_eos=True
    )
    assert ask(bundle, "generate", requests.generate(TEXTS[:1], 12))["tokens"] == [expected.tokens]
    saved = sum(path.stat().st_size for path in bundle.glob("saved_model/1/variables/*"))
    # The index of so many small variables is a part of it.
    assert saved < 1.2 * sum(weight.nbytes for weight in model.bundle.manifest.weights)


def test_a_classifier_gives_the_scores_of_the_stablehlo_runtime(tmp_path: Path):
    checkpoint = tiny_heads.write_classifier("classifier", tmp_path / "checkpoint")
    bundle = make(tmp_path, checkpoint, "--prefill", "4", "--cache", 32, "--batch", 2)
    expected = classify(LoadedModel.load(bundle, "1x1"), TEXTS)
    for signature in ("classify", "serving_default"):
        outputs = ask(bundle, signature, READ)
        np.testing.assert_allclose(outputs["scores"], expected, atol=1e-4)


def test_an_embedder_gives_the_vectors_of_the_stablehlo_runtime(tmp_path: Path):
    checkpoint = tiny_heads.write_embedder("embedder", tmp_path / "checkpoint")
    bundle = make(tmp_path, checkpoint, "--prefill", "4,8", "--batch", 2)
    expected = embed(LoadedModel.load(bundle, "1x1"), TEXTS)
    np.testing.assert_allclose(ask(bundle, "embed", READ)["embedding"], expected, atol=1e-4)


def test_slots_for_a_model_that_generates_nothing_are_refused(tmp_path: Path):
    checkpoint = tiny_heads.write_classifier("classifier", tmp_path / "checkpoint")
    done = export(
        "--mesh", "1x1", "--checkpoint", checkpoint, "--out", tmp_path / "bundle", "--prefill", 4,
        "--cache", 8, "--format", "savedmodel", "--stateful-slots", 2,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--stateful-slots keeps the caches of growing texts" in done.stderr
