"""Results as JSON and as arrays: what has no number in JSON is null, and counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma3_export.runtime.commands.output import (
    classify_json,
    completion_json,
    embed_json,
    print_vectors,
    score_json,
    write_outputs,
)
from gemma3_export.runtime.requests.generate import Completion, Timing
from gemma3_export.runtime.requests.score import Score

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (score_json(Score([-1.5, None, NAN], NAN)),
         {"loss": None, "logprobs": [-1.5, None, None], "nonfinite": 2}),
        (score_json(Score([-1.5, None], 1.5)), {"loss": 1.5, "logprobs": [-1.5, None]}),
        (classify_json([1.0, -INF, INF]), {"scores": [1.0, None, None], "nonfinite": 2}),
        (classify_json([1.0]), {"scores": [1.0]}),
        (embed_json([NAN, 0.5]), {"embedding": [None, 0.5], "nonfinite": 1}),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_null_and_counted(value: dict[str, Any], expected: dict[str, Any]):
    assert value == expected
    assert list(value) == list(expected)
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(("logprob", "count"), [(-0.5, None), (NAN, 1), (-INF, 1)])
def test_a_completion_says_how_many_of_its_numbers_are_none(logprob: float, count: int | None):
    completion = Completion(
        tokens=[0], text="", finish_reason="length", logprobs=[[(0, logprob), (7, -2.0)]],
        timing=Timing(0.0, 0.0, 0.0, 1, 0),
    )  # fmt: skip
    value = completion_json(completion, 1.0)
    assert value["logprobs"] == [[[0, None if count else logprob], [7, -2.0]]]
    assert value.get("nonfinite") == count
    json.dumps(value, allow_nan=False)


def test_every_object_on_stdout_is_json(capsys: pytest.CaptureFixture[str]):
    print_vectors([[NAN], [INF, 1.0]], text=False)
    lines = capsys.readouterr().out.splitlines()

    def refuse(name: str) -> float:
        raise AssertionError(name)

    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"embedding": [None], "nonfinite": 1}, {"embedding": [None, 1.0], "nonfinite": 1},
    ]  # fmt: skip


def test_a_file_of_arrays_holds_those_that_were_asked_for_and_nothing_else(tmp_path: Path):
    write_outputs(tmp_path / "x.npz", [[2, 3]], [Score([None], 0.0)])
    with np.load(tmp_path / "x.npz") as arrays:
        assert set(arrays) == {"tokens", "logprobs"}
        assert np.isnan(arrays["logprobs"]).all()
