from __future__ import annotations

import math

import numpy as np
import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.runtime.requests.sampling import (
    SamplingParameters,
    check_sampling_taken,
    sampling_arrays,
    top_tokens,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
        ("top_k", -1), ("top_k", 2**31), ("top_k", 0.5), ("top_k", math.nan), ("seed", 1.5),
        ("top_p", 0.0), ("top_p", 1.1), ("top_p", math.nan),
        ("min_p", -0.1), ("min_p", 1.1), ("min_p", math.nan), ("seed", -1), ("seed", 2**32),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_the_name_of_its_flag(field: str, value: float):
    with pytest.raises(UsageError, match=f"^{field}: expected .*, got "):
        SamplingParameters(**{field: value})


def test_the_ends_of_the_ranges_are_accepted():
    SamplingParameters(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
    SamplingParameters(temperature=1e9, top_k=2**31 - 1, top_p=1e-300, min_p=1, seed=2**32 - 1)


def test_arrays_have_the_names_and_dtypes_of_the_programs():
    arrays = sampling_arrays([SamplingParameters(0.5, 40, 0.9, 0.1, 7, 1.5)] * 3, 3)
    assert {name: (a.dtype.name, a.tolist()) for name, a in arrays.items()} == {
        "temperature": ("float32", [0.5] * 3),
        "top_k": ("int32", [40] * 3),
        "top_p": ("float32", [np.float32(0.9)] * 3),
        "min_p": ("float32", [np.float32(0.1)] * 3),
        "seed": ("uint32", [7] * 3),
        "repetition_penalty": ("float32", [1.5] * 3),
    }


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 1e308])
def test_logits_divided_by_any_temperature_stay_finite(temperature: float):
    divisor = sampling_arrays([SamplingParameters(temperature=temperature)], 1)["temperature"]
    assert divisor[0] > 0
    with np.errstate(all="raise"):
        assert np.isfinite(np.float32([1e6, -1e6]) / divisor).all()


def test_rows_are_drawn_each_in_its_way_and_rows_beyond_them_greedily():
    first, second = SamplingParameters(0.5, 40, 0.9, 0.1, 7), SamplingParameters(1.5, seed=3)
    arrays = [array.tolist() for array in sampling_arrays([first, second], 3).values()]
    assert arrays == [
        [0.5, 1.5, 0], [40, 0, 0], [np.float32(0.9), 1, 1], [np.float32(0.1), 0, 0], [7, 3, 0],
        [1, 1, 1],
    ]  # fmt: skip


def test_top_p_never_becomes_zero():
    assert sampling_arrays([SamplingParameters(top_p=5e-324)], 1)["top_p"][0] > 0


def test_top_tokens_are_log_softmax_in_order():
    logits = np.log(np.float32([0.1, 0.6, 0.3])) + np.float32(5)
    tokens, logprobs = zip(*top_tokens(logits, 2), strict=True)
    assert tokens == (1, 2)
    np.testing.assert_allclose(np.exp(logprobs), [0.6, 0.3], rtol=1e-6)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_equal_logits_are_ordered_by_id(values: list[int], count: int):
    got = [token for token, _ in top_tokens(np.float32(values), count)]
    assert got == sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]


def test_top_tokens_do_not_overflow_or_change_the_logits():
    logits = np.float32([1e4, -1e4, 0])
    assert top_tokens(logits, 1) == [(0, 0.0)]
    assert logits.tolist() == [1e4, -1e4, 0]


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([1.0, np.nan, 3.0, np.nan], [1, 3, 2]),
        ([np.nan] * 4, [0, 1, 2]),
        ([1.0, np.inf, np.nan, 0.0], [2, 1, 0]),
        ([1.0, np.inf, np.inf, 0.0], [1, 2, 0]),
        ([-np.inf] * 4, [0, 1, 2]),
    ],
)
def test_top_tokens_of_what_is_not_a_number_are_there_and_have_none(
    values: list[float], order: list[int]
):
    got = top_tokens(np.float32(values), 3)
    assert [token for token, _ in got] == order
    assert not np.isfinite([logprob for _, logprob in got]).any()


def test_a_logit_of_minus_infinity_is_a_token_that_cannot_come():
    got = top_tokens(np.float32([0.0, -np.inf, 0.0]), 3)
    assert got == [(0, -np.log(2)), (2, -np.log(2)), (1, -np.inf)]


def test_a_parameter_that_programs_do_not_take_is_refused_unless_it_is_off():
    seeded = SamplingParameters(temperature=1, seed=3)
    check_sampling_taken([SamplingParameters(), seeded], {"temperature", "seed"}, "bundle b")
    with pytest.raises(UsageError, match=r"^seed: expected 0 \(off\), since the programs of b "):
        check_sampling_taken([SamplingParameters(), seeded], {"temperature"}, "b")
