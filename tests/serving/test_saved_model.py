"""The SavedModel through tf.saved_model.load: tokens, scores, slots, refusals, warm-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.serving.signatures import MODEL_NAME, saved_model_programs
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.score import score

from . import requests
from .conftest import Answer, ask_tensorflow
from .requests import BAD, PROMPTS

SAMPLED = {
    "temperature": ["float32", [0.9, 1.3]],
    "top_k": ["int32", [20, 0]],
    "top_p": ["float32", [0.95, 0.8]],
    "min_p": ["float32", [0.0, 0.01]],
    "seed": ["int64", [7, 4294967295]],
    "repetition_penalty": ["float32", [1.2, 1.0]],
}
ASKED = {
    "one row": ("generate", requests.generate([PROMPTS[0]], 20)),
    "default": ("serving_default", requests.generate([PROMPTS[0]], 20)),
    "unequal rows": ("generate", requests.generate(PROMPTS[1:3], [27, 3], width=30)),
    "one token": ("generate", requests.generate([PROMPTS[0]], 1)),
    "sampled": ("generate", requests.generate(PROMPTS[:2], 12, **SAMPLED)),
    "score": ("score", {
        "tokens": ["int32", [PROMPTS[3], PROMPTS[1] + [0] * 16]], "lengths": ["int32", [37, 21]],
    }),
    "warmup": ("warmup", {}),
} | {name: ("generate", inputs) for name, (_, inputs) in BAD.items()}  # fmt: skip


@pytest.fixture(scope="module")
def model(bundle: Path) -> LoadedModel:
    return LoadedModel.load(bundle, "1x1")


def _local(model: LoadedModel, prompts, new_tokens, **sampling) -> list[list[int]]:
    return [
        completion.tokens
        for completion in generate(
            model, prompts, SamplingParameters(**sampling), max_new_tokens=new_tokens,
            ignore_eos=True,
        )
    ]  # fmt: skip


@pytest.fixture(scope="module")
def stop(model: LoadedModel) -> int:
    """A token in the middle of what follows the first prompt."""
    return _local(model, [PROMPTS[0]], 20)[0][9]


@pytest.fixture(scope="module")
def answers(bundle: Path, stop: int) -> dict[str, Answer]:
    asked = dict(ASKED)
    stopped = requests.generate([PROMPTS[0]], 20, stop_tokens=["int32", [[stop, stop]]])
    asked["stopped"] = ("generate", stopped)
    found = ask_tensorflow(bundle / "saved_model" / "1", list(asked.values()))
    return dict(zip(asked, found, strict=True))


def _rows(answer: Answer) -> list[list[int]]:
    outputs = answer["outputs"]
    for row, count in zip(outputs["tokens"], outputs["counts"], strict=True):
        assert not any(row[count:])  # zeros behind the last
    return [row[:count] for row, count in zip(outputs["tokens"], outputs["counts"], strict=True)]


@pytest.mark.parametrize("name", ["one row", "default"])
def test_greedy_tokens_are_those_of_the_stablehlo_runtime(model, answers, name):
    assert _rows(answers[name]) == _local(model, [PROMPTS[0]], 20)
    assert answers[name]["outputs"]["finish_reasons"] == ["length"]


def test_rows_of_unequal_length_and_limit_are_as_if_alone(model, answers):
    expected = [_local(model, [PROMPTS[1]], 27)[0], _local(model, [PROMPTS[2]], 3)[0]]
    assert _rows(answers["unequal rows"]) == expected


def test_a_single_token_comes_from_the_prefill_alone(model, answers):
    assert _rows(answers["one token"]) == _local(model, [PROMPTS[0]], 1)


def test_sampled_tokens_are_those_of_the_stablehlo_runtime(model, answers):
    first = _local(
        model, [PROMPTS[0]], 12, temperature=0.9, top_k=20, top_p=0.95, seed=7,
        repetition_penalty=1.2,
    )  # fmt: skip
    second = _local(
        model, [PROMPTS[1]], 12, temperature=1.3, top_p=0.8, min_p=0.01, seed=4294967295
    )
    assert _rows(answers["sampled"]) == [first[0], second[0]]


def test_a_stop_token_ends_the_row_and_is_counted(model, answers, stop):
    whole = _local(model, [PROMPTS[0]], 20)[0]
    assert _rows(answers["stopped"]) == [whole[: whole.index(stop) + 1]]
    assert answers["stopped"]["outputs"]["finish_reasons"] == ["stop"]


def test_scores_are_those_of_the_stablehlo_runtime(model, answers):
    expected = score(model, [PROMPTS[3], PROMPTS[1]])
    outputs = answers["score"]["outputs"]
    for row, result in enumerate(expected):
        found = outputs["logprobs"][row]
        np.testing.assert_allclose(found[: len(result.logprobs)], result.logprobs, atol=1e-4)
        assert not any(found[len(result.logprobs) :])
        assert outputs["loss"][row] == pytest.approx(result.loss, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in BAD if name != "wrong dtype"])
def test_a_bad_request_is_an_invalid_argument_that_names_the_field(answers, name):
    field, _ = BAD[name]
    assert answers[name]["code"] == "InvalidArgumentError"
    assert f"assertion failed: [{field}: expected " in answers[name]["error"]


def test_warm_up_requests_run_and_call_every_bucket(bundle, answers):
    counts = answers["warmup"]["outputs"]
    programs = [p.bucket for p in saved_model_programs(Bundle.open(bundle).manifest)]
    prefills = [b for b in programs if b.program == "prefill"]
    assert counts["generate"] == counts["score"] == len(prefills) == 4
    alone = {name: n for name, n in counts.items() if name not in ("generate", "score")}
    assert alone == {
        "prefill_b1_t4_c64": 1, "prefill_b1_t16_c64": 1, "prefill_b2_t4_c64": 1,
        "prefill_b2_t16_c64": 1, "decode_b1_c64": 1, "decode_b2_c64": 1,
    }  # fmt: skip
    assert MODEL_NAME == "gemma3"
