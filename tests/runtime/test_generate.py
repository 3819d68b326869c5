from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError, UsageError
from gemma3_export.artifacts.manifest import ProgramName
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.loading.programs import Arrays, Inputs, LoadedProgram
from gemma3_export.runtime.requests.generate import (
    Completion,
    Request,
    buckets_of,
    generate,
    most_new_tokens,
    plan_request,
)
from gemma3_export.runtime.requests.sampling import SamplingParameters

from .toy_bundle import BOS, Toy, make_toy_bundle
from .toy_model import VOCAB, reference_greedy, reference_logits

GREEDY = SamplingParameters()
HOT = SamplingParameters(temperature=1.5, seed=11)
# One token, chunk edges of buckets 4 and 16, the ring of 8 slots crossed within and by chunks.
LENGTHS = (1, 3, 4, 5, 8, 9, 16, 17, 20, 33, 40)
PROMPTS = [[BOS, *range(10 + n, 9 + n + n)] for n in LENGTHS]


def tokens_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.tokens for completion in completions]


@pytest.mark.parametrize("which", ["model", "sharded_model"])
@pytest.mark.parametrize("logprobs", [0, 3], ids=["generate", "decode"])
def test_greedy_tokens_are_those_of_the_whole_text_on_every_mesh_and_by_either_program(
    which: str, logprobs: int, request: pytest.FixtureRequest
):
    model = request.getfixturevalue(which)
    got = generate(model, PROMPTS, GREEDY, max_new_tokens=20, ignore_eos=True, logprobs=logprobs)
    assert tokens_of(got) == [reference_greedy(prompt, 20) for prompt in PROMPTS]
    assert {completion.finish_reason for completion in got} == {"length"}


@pytest.mark.parametrize("logprobs", [0, 3], ids=["generate", "decode"])
def test_no_array_is_changed_that_a_program_was_given(
    model: LoadedModel, logprobs: int, monkeypatch: pytest.MonkeyPatch
):
    # A device of a mesh may still be reading it after the first has answered.
    given: list[tuple[np.ndarray, np.ndarray]] = []
    call = LoadedProgram.__call__

    def watched(self: LoadedProgram, inputs: Inputs, cache: Arrays) -> tuple[Arrays, Arrays]:
        given.extend((array, array.copy()) for array in inputs.values())
        return call(self, inputs, cache)

    monkeypatch.setattr(LoadedProgram, "__call__", watched)
    generate(model, PROMPTS[2:5], GREEDY, max_new_tokens=20, ignore_eos=True, logprobs=logprobs)
    assert len(given) > 20
    for array, before in given:
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "sampled"])
def test_a_prompt_gets_the_same_tokens_alone_as_in_a_batch(
    model: LoadedModel, sampling: SamplingParameters
):
    together = generate(model, PROMPTS[3:7], sampling, max_new_tokens=12, ignore_eos=True)
    alone = [
        generate(model, [prompt], sampling, max_new_tokens=12, ignore_eos=True)[0]
        for prompt in PROMPTS[3:7]
    ]
    assert tokens_of(together) == tokens_of(alone)


def test_logprobs_are_those_of_the_model_and_change_no_token(model: LoadedModel):
    prompts = PROMPTS[2:6]
    plain = generate(model, prompts, HOT, max_new_tokens=9, ignore_eos=True)
    got = generate(model, prompts, HOT, max_new_tokens=9, ignore_eos=True, logprobs=VOCAB)
    assert tokens_of(got) == tokens_of(plain)
    assert {completion.logprobs for completion in plain} == {None}
    for prompt, completion in zip(prompts, got, strict=True):
        logits = reference_logits(prompt + completion.tokens)[len(prompt) - 1 : -1]
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        assert completion.logprobs is not None
        for step, row in zip(completion.logprobs, expected, strict=True):
            np.testing.assert_allclose([lp for _, lp in step], row[[i for i, _ in step]], atol=1e-4)
            assert [lp for _, lp in step] == sorted((lp for _, lp in step), reverse=True)


def test_seeds_differ_and_repeat(model: LoadedModel):
    def run(sampling: SamplingParameters) -> list[int]:
        return generate(model, [PROMPTS[3]], sampling, max_new_tokens=20)[0].tokens

    assert run(HOT) == run(HOT)
    assert run(HOT) != run(dataclasses.replace(HOT, seed=12))
    greedy = run(GREEDY)
    assert run(HOT) != greedy
    assert run(dataclasses.replace(HOT, top_k=1)) == greedy
    assert run(dataclasses.replace(HOT, top_p=1e-9)) == greedy
    assert run(dataclasses.replace(HOT, min_p=1.0)) == greedy


@pytest.mark.parametrize("logprobs", [0, 1], ids=["generate", "decode"])
@pytest.mark.parametrize("index", [0, 1, 9, 19])
def test_a_stop_token_ends_its_row_and_is_kept_without_its_text(
    model: LoadedModel, index: int, logprobs: int
):
    prompt, other = PROMPTS[4], PROMPTS[7]
    tokens = reference_greedy(prompt, 20)
    end = tokens.index(tokens[index]) + 1
    got, rest = generate(
        model, [prompt, other], GREEDY, max_new_tokens=20, ignore_eos=True,
        stop_token_ids=[tokens[index]], logprobs=logprobs,
    )  # fmt: skip
    assert got.tokens == tokens[:end]
    assert got.finish_reason == "stop"
    assert got.text == model.tokenizer.decode(tokens[: end - 1])
    if tokens[index] not in (beside := reference_greedy(other, 20)):
        assert rest.tokens == beside


def test_more_stop_tokens_than_the_program_takes_all_count(model: LoadedModel):
    tokens = reference_greedy(PROMPTS[4], 20)
    others = [token for token in range(100, 400) if token not in tokens and token < VOCAB][:20]
    got = generate(
        model, [PROMPTS[4]], GREEDY, max_new_tokens=20, ignore_eos=True,
        stop_token_ids=[*others, tokens[6]],
    )  # fmt: skip
    assert got[0].tokens == tokens[: tokens.index(tokens[6]) + 1]
    assert got[0].finish_reason == "stop"


def test_the_models_own_end_tokens_count_unless_ignored(tmp_path: Path):
    prompt = PROMPTS[4]
    tokens = reference_greedy(prompt, 20)
    toy = Toy(batch=(1,), prefill=(16,), eos_token_ids=(tokens[5],))
    model = LoadedModel.load(make_toy_bundle(tmp_path / "b", toy))
    ended = generate(model, [prompt], GREEDY, max_new_tokens=20)[0]
    assert (ended.tokens, ended.finish_reason) == (tokens[: tokens.index(tokens[5]) + 1], "stop")
    assert generate(model, [prompt], GREEDY, max_new_tokens=20, ignore_eos=True)[0].tokens == tokens


def test_text_ends_before_a_stop_text_and_tokens_with_the_one_that_completed_it(
    model: LoadedModel,
):
    prompts = PROMPTS[:4]
    for prompt in prompts:
        tokens = reference_greedy(prompt, 20)
        text = model.tokenizer.decode(tokens)
        stop = text[5:7]
        end = next(n for n in range(20) if stop in model.tokenizer.decode(tokens[:n]))
        got = generate(
            model, [prompt], GREEDY, max_new_tokens=20, ignore_eos=True, stop_texts=[stop]
        )[0]
        assert (got.text, got.finish_reason) == (text[: text.index(stop)], "stop")
        assert got.tokens == tokens[:end]


def test_a_stop_text_ends_only_its_own_row(model: LoadedModel):
    prompts = PROMPTS[:4]
    texts = [model.tokenizer.decode(reference_greedy(prompt, 20)) for prompt in prompts]
    stop = next(text[3:5] for text in texts if sum(text[3:5] in other for other in texts) == 1)
    got = generate(model, prompts, GREEDY, max_new_tokens=20, ignore_eos=True, stop_texts=[stop])
    assert [completion.text for completion in got] == [text.partition(stop)[0] for text in texts]


def test_streamed_text_joined_is_the_text_of_each_row(model: LoadedModel):
    shown: list[tuple[int, str]] = []
    got = generate(
        model, PROMPTS, GREEDY, max_new_tokens=20, ignore_eos=True,
        on_text=lambda row, text: shown.append((row, text)),
    )  # fmt: skip
    for index, completion in enumerate(got):
        assert "".join(text for row, text in shown if row == index) == completion.text
        assert completion.text == model.tokenizer.decode(completion.tokens)
    assert len(shown) > 2 * len(PROMPTS)
    assert "" not in {text for _, text in shown}


def test_the_first_token_is_shown_before_the_others_are_made(model: LoadedModel):
    seen_after: list[int] = []

    class StopError(Exception):
        pass

    def on_text(row: int, text: str) -> None:
        seen_after.append(len(text))
        raise StopError

    with pytest.raises(StopError):
        generate(model, [PROMPTS[1]], GREEDY, max_new_tokens=20, on_text=on_text)
    assert len(seen_after) == 1


def test_a_bundle_without_generate_steps_by_decode_and_without_decode_has_no_logprobs(
    tmp_path: Path,
):
    prompt, expected = PROMPTS[5], reference_greedy(PROMPTS[5], 10)
    for name in (ProgramName.DECODE, ProgramName.GENERATE):
        toy = Toy(batch=(1,), prefill=(4,), programs=(ProgramName.PREFILL, name))
        model = LoadedModel.load(make_toy_bundle(tmp_path / name, toy))
        got = generate(model, [prompt], GREEDY, max_new_tokens=10, ignore_eos=True)
        assert tokens_of(got) == [expected]
    with pytest.raises(ArtifactError, match=r"cannot generate with log-probabilities"):
        generate(model, [prompt], GREEDY, max_new_tokens=10, logprobs=1)


def test_a_bundle_without_a_tokenizer_gives_tokens_and_refuses_stop_texts(tmp_path: Path):
    toy = Toy(batch=(1,), prefill=(4,), tokenizer=False)
    model = LoadedModel.load(make_toy_bundle(tmp_path / "b", toy))
    got = generate(model, [PROMPTS[2]], GREEDY, max_new_tokens=5, ignore_eos=True)[0]
    assert (got.tokens, got.text) == (reference_greedy(PROMPTS[2], 5), "")
    with pytest.raises(ArtifactError, match=r"names no tokenizer"):
        generate(model, [PROMPTS[2]], GREEDY, max_new_tokens=5, stop_texts=["x"])


def test_one_new_token_needs_no_program_after_prefill(model: LoadedModel):
    request = Request([[BOS, 9]], max_new_tokens=1)
    groups = plan_request(model, request)
    assert {bucket.program for bucket in buckets_of(model, request, groups)} == {
        ProgramName.PREFILL
    }
    got = generate(model, [[BOS, 9]], GREEDY, max_new_tokens=1)[0]
    assert got.tokens == reference_greedy([BOS, 9], 1)
    assert got.timing.decode_tokens == 0


def test_timing_counts_the_tokens_of_the_group(model: LoadedModel):
    timing = generate(model, PROMPTS[:4], GREEDY, max_new_tokens=6, ignore_eos=True)[0].timing
    assert timing.prefill_tokens == sum(LENGTHS[:4])
    assert timing.decode_tokens == 4 * 5
    assert timing.prefill_s > 0
    assert timing.decode_s > 0


def test_a_row_may_fill_its_cache_to_the_last_position(model: LoadedModel):
    prompt = PROMPTS[-1]
    fits = most_new_tokens(model, [prompt], 0)
    assert fits == 64 - len(prompt)
    got = generate(model, [prompt], GREEDY, max_new_tokens=fits, ignore_eos=True)[0]
    assert got.tokens == reference_greedy(prompt, fits)


def test_every_cache_bucket_gives_the_same_tokens(tmp_path: Path):
    toy = Toy(batch=(1,), prefill=(16,), caches=(32, 64))
    model = LoadedModel.load(make_toy_bundle(tmp_path / "b", toy))
    prompt = PROMPTS[6]
    for new_tokens, cache in ((16, 32), (17, 64)):
        request = Request([prompt], new_tokens, ignore_eos=True)
        assert [group.shape.cache for group in plan_request(model, request)] == [cache]
        got = generate(model, [prompt], GREEDY, max_new_tokens=new_tokens, ignore_eos=True)
        assert tokens_of(got) == [reference_greedy(prompt, new_tokens)]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([], 1), r"^no prompt"),
        (Request([[BOS], []], 1), r"^prompt 2 is empty"),
        (Request([[BOS, VOCAB]], 1), r"token 2 of prompt 1 is 384: expected an id from 0 to 383"),
        (Request([[BOS], [-1]], 1), r"^token 1 of prompt 2 is -1: expected"),
        (Request([[BOS]], 0), r"^max new tokens: expected at least 1, got 0"),
        (Request([[BOS]], 64), r"^prompt of 1 token and 64 new tokens does not fit: .*at most 63"),
        (Request([[BOS] * 64], 1), r"^prompt of 64 tokens .*largest cache bucket is 64 .*: 64\)"),
        (Request([[BOS]], 1, stop_token_ids=[VOCAB]), r"^stop token is 384: expected an id"),
        (Request([[BOS]], 1, stop_texts=["a", ""]), r"^stop text is empty"),
        (Request([[BOS]], 1, logprobs=-1), r"^logprobs: expected 0 to 384 .*got -1"),
        (Request([[BOS]], 1, logprobs=VOCAB + 1), r"^logprobs: expected 0 to 384 .*got 385"),
    ],
)
def test_what_the_model_cannot_serve_is_refused_before_anything_runs(
    model: LoadedModel, request_: Request, message: str
):
    with pytest.raises(UsageError, match=message):
        plan_request(model, request_)
