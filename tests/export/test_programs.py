"""The four programs of a bundle, run in process on a small model, against whole texts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.artifacts.convention import STOP_TOKENS
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export import programs
from gemma3_export.model.cache import init_cache
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.pure.causal_lm import CausalLM

from ..model.small import (
    SMALL,
    log_softmax,
    reference_greedy,
    reference_logits,
    small_weights,
)

CACHE = 32
WEIGHTS = small_weights(SMALL)
PROMPTS = [
    [int(token) for token in np.random.default_rng(8).integers(0, SMALL.vocab_size, size)]
    for size in (7, 1, 11)
]
ROWS = len(PROMPTS)
SAMPLED = {"temperature": 1.3, "top_k": 30, "top_p": 0.95, "min_p": 0.001, "seed": 17}

Flat = tuple[jax.Array, ...]
Program = Callable[[Flat, Flat], tuple[Flat, Flat]]


@functools.lru_cache
def program(name: ProgramName, tokens: int, batch: int = ROWS) -> Program:
    """(inputs, cache) -> (outputs, cache), compiled."""
    model = CausalLM(SMALL, jnp.dtype(jnp.float32))
    names = tuple(p.name for p in model.parameters())
    bucket = Bucket(name, batch, tokens, CACHE)
    function = programs.define(bucket, model, names, LoweringContext())
    weights = tuple(WEIGHTS[name] for name in names)
    return jax.jit(
        lambda inputs, cache: function(weights, inputs, cache),
        compiler_options={"xla_backend_optimization_level": 0},  # half the time of the test
    )


def fresh(batch: int = ROWS) -> Flat:
    layers = programs.flatten_cache(init_cache(SMALL, batch, CACHE, jnp.dtype(jnp.float32)))
    return (*layers, jnp.zeros((batch, CACHE), jnp.int32))


def sampling(
    batch: int = ROWS, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
    min_p: float = 0.0, seed: int = 0, repetition_penalty: float = 1.0,
) -> Flat:  # fmt: skip
    return (
        jnp.full(batch, temperature, jnp.float32),
        jnp.full(batch, top_k, jnp.int32),
        jnp.full(batch, top_p, jnp.float32),
        jnp.full(batch, min_p, jnp.float32),
        jnp.full(batch, seed, jnp.uint32),
        jnp.full(batch, repetition_penalty, jnp.float32),
    )


def ints(*values: int) -> jax.Array:
    return jnp.array(values, jnp.int32)


def pad(rows: list[list[int]], tokens: int, filler: int = SMALL.vocab_size - 1) -> jax.Array:
    return jnp.array([row + [filler] * (tokens - len(row)) for row in rows], jnp.int32)


def prefill(rows: list[list[int]], starts: list[int], cache: Flat, tokens: int, **settings):
    inputs = (pad(rows, tokens), ints(*starts), ints(*map(len, rows)))
    run = program(ProgramName.PREFILL, tokens, len(rows))
    return run((*inputs, *sampling(len(rows), **settings)), cache)


def after_prompts(**settings) -> tuple[jax.Array, jax.Array, Flat]:
    """State after all prompts in one chunk: last token, its position, cache."""
    (token, _), cache = prefill(PROMPTS, [0] * ROWS, fresh(), 12, **settings)
    return token, ints(*map(len, PROMPTS)), cache


def decode_tokens(count: int, **settings) -> np.ndarray:
    """The tokens after the one that prefill gives, [ROWS,count], one call each."""
    token, position, cache = after_prompts(**settings)
    tokens = []
    for _ in range(count):
        (token, _), cache = program(ProgramName.DECODE, 1)(
            (token, position, *sampling(**settings)), cache
        )
        position = position + 1
        tokens.append(np.asarray(token))
    return np.stack(tokens, axis=1)


def generate(state: tuple, limit: list[int], stops: list[list[int]] | None = None, **settings):
    token, position, cache = state
    stop_tokens = pad(stops or [[]] * ROWS, STOP_TOKENS, -1)
    inputs = (token, position, ints(*limit), stop_tokens, *sampling(**settings))
    return program(ProgramName.GENERATE, 6)(inputs, cache)


def test_prefill_gives_the_logits_of_each_rows_last_token_and_its_likeliest_successor():
    (token, logits), _ = prefill(PROMPTS, [0] * ROWS, fresh(), 12)
    for row, prompt in enumerate(PROMPTS):
        expected = reference_logits(SMALL, WEIGHTS, prompt)[-1]
        np.testing.assert_allclose(logits[row], expected, atol=2e-4)
        assert int(token[row]) == expected.argmax()


def test_the_cache_has_the_tokens_that_each_row_was_fed():
    token, position, cache = after_prompts()
    (tokens, *_), cache = generate((token, position, cache), [3] * ROWS)
    for row, prompt in enumerate(PROMPTS):
        fed = [*prompt, int(token[row]), *np.asarray(tokens)[row, :2].tolist()]
        assert np.asarray(cache[-1])[row, : len(fed)].tolist() == fed


def test_a_repetition_penalty_holds_for_prompts_and_new_tokens_in_every_program():
    """Of each row its own: `generate` and `decode` give what the definition gives step by step."""
    settings = {"repetition_penalty": 1.5}
    expected, plain = [], []
    for prompt in PROMPTS:
        text, greedy = list(prompt), list(prompt)
        for _ in range(6):
            logits = reference_logits(SMALL, WEIGHTS, text)[-1].astype(np.float32)
            for token in set(text):
                logits[token] *= 1.5 if logits[token] < 0 else 1 / 1.5
            text.append(int(logits.argmax()))
            greedy.append(int(reference_logits(SMALL, WEIGHTS, greedy)[-1].argmax()))
        expected.append(text[len(prompt) :])
        plain.append(greedy[len(prompt) :])
    assert expected != plain
    token, position, cache = after_prompts(**settings)
    (tokens, *_), _ = generate((token, position, cache), [5] * ROWS, **settings)
    together = np.concatenate([np.asarray(token)[:, None], np.asarray(tokens)[:, :5]], axis=1)
    assert together.tolist() == expected
    assert decode_tokens(5, **settings).tolist() == [row[1:] for row in expected]


def test_prefill_then_decode_is_a_longer_prefill():
    token, position, cache = after_prompts()
    (_, logits), _ = program(ProgramName.DECODE, 1)((token, position, *sampling()), cache)
    longer = [[*prompt, int(next_)] for prompt, next_ in zip(PROMPTS, token, strict=True)]
    (_, expected), _ = prefill(longer, [0] * ROWS, fresh(), 12)
    np.testing.assert_allclose(logits, expected, atol=2e-4)


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_chunks_of_any_size_give_the_same_token(settings: dict):
    whole = after_prompts(**settings)[0]
    cache, starts = fresh(), [0] * ROWS
    token = [0] * ROWS
    while any(start < len(prompt) for start, prompt in zip(starts, PROMPTS, strict=True)):
        rows = [prompt[start : start + 4] for start, prompt in zip(starts, PROMPTS, strict=True)]
        (drawn, _), cache = prefill(rows, starts, cache, 4, **settings)
        token = [int(new) if row else old for row, new, old in zip(rows, drawn, token, strict=True)]
        starts = [start + len(row) for start, row in zip(starts, rows, strict=True)]
    assert token == whole.tolist()


def test_a_row_of_length_0_keeps_its_cache_to_the_last_bit():
    _, _, cache = after_prompts()
    (_, _), updated = prefill([[3, 4], [], [5]], [7, 1, 11], cache, 4)
    for before, after in zip(cache, updated, strict=True):
        np.testing.assert_array_equal(after[1], before[1])
        assert (np.asarray(after[0]) != np.asarray(before[0])).any()


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_generate_gives_the_tokens_of_repeated_decode(settings: dict):
    (tokens, count, stopped, token, position), _ = generate(
        after_prompts(**settings), [6] * ROWS, **settings
    )
    np.testing.assert_array_equal(tokens, decode_tokens(6, **settings))
    assert count.tolist() == [6] * ROWS
    assert stopped.tolist() == [0] * ROWS
    np.testing.assert_array_equal(token, tokens[:, -1])
    assert position.tolist() == [len(prompt) + 6 for prompt in PROMPTS]


def test_greedy_generation_is_that_of_the_whole_text_at_every_step():
    token, position, cache = after_prompts()
    (tokens, *_), _ = generate((token, position, cache), [6] * ROWS)
    for row, prompt in enumerate(PROMPTS):
        expected = reference_greedy(SMALL, WEIGHTS, prompt, 7)
        assert [int(token[row]), *tokens[row].tolist()] == expected


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_calls_go_on_where_the_last_one_ended_whatever_the_limits(settings: dict):
    expected = decode_tokens(12, **settings)
    token, position, cache = after_prompts(**settings)
    got: list[list[int]] = [[] for _ in range(ROWS)]
    for limit in ([2, 0, 6], [0, 5, 1], [6, 6, 0], [4, 1, 5]):
        (tokens, count, _, token, position), cache = generate(
            (token, position, cache), limit, **settings
        )
        assert count.tolist() == limit
        for row in range(ROWS):
            got[row] += tokens[row, : limit[row]].tolist()
            assert not tokens[row, limit[row] :].any()
    for row in range(ROWS):
        assert got[row] == expected[row, : len(got[row])].tolist()
    assert [len(row) for row in got] == [12] * ROWS


def test_a_stop_token_ends_its_row_alone_and_is_the_last_that_counts():
    expected = decode_tokens(6)
    stop = int(expected[0, 2])
    first = expected[0].tolist().index(stop)
    others = [token for token in range(SMALL.vocab_size) if token not in expected]
    stops = [[others[0], stop], others[1:9], [others[0]]]
    state = after_prompts()
    (tokens, count, stopped, token, position), _ = generate(state, [6, 6, 3], stops)
    assert count.tolist() == [first + 1, 6, 3]
    assert stopped.tolist() == [1, 0, 0]
    assert tokens[0].tolist() == [*expected[0, : first + 1], *[0] * (5 - first)]
    assert int(token[0]) == stop
    assert position.tolist() == [len(PROMPTS[0]) + first + 1, len(PROMPTS[1]) + 6, 14]
    np.testing.assert_array_equal(tokens[1], expected[1])


def test_a_stop_token_on_the_last_wanted_place_counts_as_stopped():
    expected = decode_tokens(3)
    stops = [[int(row[2])] for row in expected]
    limit = [row.tolist().index(stop[0]) + 1 for row, stop in zip(expected, stops, strict=True)]
    (_, count, stopped, _, _), _ = generate(after_prompts(), limit, stops)
    assert count.tolist() == limit
    assert stopped.tolist() == [1] * ROWS


def test_an_idle_row_comes_out_as_it_went_in():
    token, position, cache = after_prompts()
    (tokens, count, stopped, after, at), _ = generate((token, position, cache), [4, 0, 2])
    assert (count.tolist(), stopped.tolist()) == ([4, 0, 2], [0, 0, 0])
    assert (int(after[1]), int(at[1])) == (int(token[1]), int(position[1]))
    assert not tokens[1].any()


def test_the_loop_ends_with_the_last_active_row(monkeypatch: pytest.MonkeyPatch):
    state, first = after_prompts(), decode_tokens(1)
    steps = []
    sample = programs.sample

    def counted(*arguments):
        jax.debug.callback(lambda: steps.append(1))
        return sample(*arguments)

    def steps_of(limit: list[int], stops: list[list[int]] | None = None) -> int:
        steps.clear()
        jax.block_until_ready(generate(state, limit, stops))
        jax.effects_barrier()
        return len(steps)

    program.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(programs, "sample", counted)
        assert steps_of([6, 6, 6]) == 6
        assert steps_of([2, 0, 1]) == 2
        assert steps_of([0, 0, 0]) == 0
        assert steps_of([6, 6, 6], [[int(token)] for token in first[:, 0]]) == 1
    program.cache_clear()


def label(rows: list[list[int]]) -> list[list[int]]:
    """The next token at each place; nothing is asked at the last."""
    return [[*row[1:], -100] for row in rows]


def test_score_is_the_log_softmax_of_the_whole_text_and_0_where_nothing_is_asked():
    tokens = 12
    labels = label(PROMPTS)
    labels[2][4] = -100
    inputs = (
        pad(PROMPTS, tokens), ints(0, 0, 0), ints(*map(len, PROMPTS)), pad(labels, tokens, -100),
    )  # fmt: skip
    (logprobs,), _ = program(ProgramName.SCORE, tokens)(inputs, fresh())
    for row, prompt in enumerate(PROMPTS):
        whole = log_softmax(reference_logits(SMALL, WEIGHTS, prompt))
        for t in range(tokens):
            asked = labels[row][t] if t < len(prompt) else -100
            expected = 0.0 if asked == -100 else whole[t, asked]
            assert float(logprobs[row, t]) == pytest.approx(expected, abs=2e-4)


def test_score_in_chunks_and_of_more_rows_than_meet_the_head_at_once_is_score_in_one(
    monkeypatch: pytest.MonkeyPatch,
):
    text = [int(t) for t in np.random.default_rng(4).integers(0, SMALL.vocab_size, 24)]
    labels = label([text])[0]
    whole = log_softmax(reference_logits(SMALL, WEIGHTS, text))
    expected = [whole[t, wanted] for t, wanted in enumerate(labels[:-1])]
    monkeypatch.setattr(programs, "_SCORE_ROWS", 5)  # pieces of 5, 5 and 2 places
    program.cache_clear()
    cache, got = fresh(1), []
    for start in (0, 12):
        inputs = (
            pad([text[start : start + 12]], 12), ints(start), ints(12),
            pad([labels[start : start + 12]], 12),
        )  # fmt: skip
        (logprobs,), cache = program(ProgramName.SCORE, 12, 1)(inputs, cache)
        got += logprobs[0].tolist()
    program.cache_clear()
    np.testing.assert_allclose(got[:-1], expected, atol=2e-4)
    assert got[-1] == 0


def test_score_fills_the_cache_as_prefill_does():
    inputs = (
        pad(PROMPTS, 12), ints(0, 0, 0), ints(*map(len, PROMPTS)), jnp.full((ROWS, 12), -100),
    )  # fmt: skip
    _, scored = program(ProgramName.SCORE, 12)(inputs, fresh())
    for one, other in zip(scored, after_prompts()[2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
