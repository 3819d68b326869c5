"""Every tiny checkpoint, exported and run, gives what transformers gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score
from safetensors.numpy import save_file

from ..goldens.loader import TinyCase, TinyPrompt, tiny_cases
from ..goldens.tiny import TINY, weights, write_checkpoint
from .bundles import make_bundle

TOLERANCE = 1e-4


def _load(name: str, folder: Path, prefill: tuple[int, ...], mesh: str = "1x1") -> LoadedModel:
    checkpoint = write_checkpoint(name, folder / "checkpoint")
    bundle = make_bundle(checkpoint, folder / "bundle", mesh, prefill=prefill)
    return LoadedModel.load(bundle, mesh, "cpu")


def _check(model: LoadedModel, golden: TinyPrompt) -> None:
    completion = generate(
        model, [golden.tokens], SamplingParameters(), max_new_tokens=len(golden.generated),
        ignore_eos=True, logprobs=5,
    )[0]  # fmt: skip
    assert completion.tokens == list(golden.generated)
    assert completion.logprobs is not None
    for got, expected in zip(completion.logprobs, golden.best, strict=True):
        assert dict(got).keys() == dict(expected).keys()
        for token, logprob in expected:
            assert dict(got)[token] == pytest.approx(logprob, abs=TOLERANCE)


def _in_one_call(case: TinyCase) -> list[TinyPrompt]:
    return [prompt for prompt in case.prompts if len(prompt.chunks) == 1]


@pytest.mark.parametrize("name", TINY)
def test_best_logprobs_of_every_step_and_scores_are_those_of_transformers(
    name: str, tmp_path: Path
):
    case = tiny_cases()[name]
    model = _load(name, tmp_path, prefill=(max(len(p.tokens) for p in _in_one_call(case)),))
    for golden in _in_one_call(case):
        _check(model, golden)
    result = score(model, [case.score.tokens])[0]
    np.testing.assert_allclose(result.logprobs, case.score.logprobs, atol=TOLERANCE)
    assert result.loss == pytest.approx(case.score.loss, abs=TOLERANCE)


CHUNKED = [
    (name, i)
    for name, case in tiny_cases().items()
    for i, prompt in enumerate(case.prompts)
    if len(prompt.chunks) > 1
]


@pytest.mark.parametrize(("name", "index"), CHUNKED)
def test_prompts_fed_in_chunks_are_those_of_transformers_fed_in_the_same_chunks(
    name: str, index: int, tmp_path: Path
):
    golden = tiny_cases()[name].prompts[index]
    _check(_load(name, tmp_path, prefill=(max(golden.chunks),)), golden)


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("default", "2x4"), ("default", "8x1"), ("default", "1x8"),
        ("default", "dp=1,fsdp=2,tp=2,sp=2"), ("layer_types", "2x4"),
        ("layer_types", "dp=1,fsdp=2,tp=2,sp=2"),
    ],
)  # fmt: skip
def test_a_mesh_of_eight_devices_gives_the_same_logprobs(name: str, mesh: str, tmp_path: Path):
    case = tiny_cases()[name]
    goldens = _in_one_call(case)
    model = _load(name, tmp_path, (max(len(p.tokens) for p in goldens),), mesh)
    _check(model, goldens[-1])


def _rewritten(name: str, folder: Path, change: str) -> Path:
    """The tiny checkpoint as other people's tools write it; the numbers are the same."""
    config, tensors = dict(TINY[name]), dict(weights(name))
    if change == "in double precision":
        tensors = {key: value.astype(np.float64) for key, value in tensors.items()}
    if change == "untied but said to be tied":
        config["tie_word_embeddings"] = True
    if change == "tied, the head stored alone":
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if change != "in shards with an index that is wrong":
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, shard in enumerate(names):
        save_file(dict(list(tensors.items())[number::2]), folder / shard)
    # The first shard for all of one half, a head that is nowhere; the other half is left out.
    weight_map = dict.fromkeys(list(tensors)[::2], names[0]) | {"lm_head.weight": names[1]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layer_types", "untied but said to be tied"),
        ("default", "in double precision"),
        ("default", "tied, the head stored alone"),
        ("default", "in shards with an index that is wrong"),
    ],
)
def test_checkpoints_as_other_tools_write_them_give_what_transformers_gives(
    name: str, change: str, tmp_path: Path
):
    checkpoint = _rewritten(name, tmp_path / "checkpoint", change)
    golden = _in_one_call(tiny_cases()[name])[0]
    bundle = make_bundle(checkpoint, tmp_path / "bundle", prefill=(len(golden.tokens),))
    _check(LoadedModel.load(bundle, "1x1", "cpu"), golden)
