from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from .conftest import Command


def test_json_has_medians_and_each_run(toy: Path, gemma3_bench: Command):
    status, out, err = gemma3_bench(
        toy, "--prefill", 20, "--decode", 12, "--batch", 3, "--repeats", 3, "--json"
    )
    assert (status, err) == (0, "")
    value = json.loads(out)
    assert len(value["runs"]) == 3
    for name in ("prefill_tok_s", "decode_tok_s"):
        assert value[name] == statistics.median(run[name] for run in value["runs"])
        assert value[name] > 0
    assert 0 < value["load_s"] < value["first_token_s"]
    assert value["warm_first_token_s"] < value["first_token_s"]
    assert value["peak_rss_bytes"] > 50e6
    assert (value["prefill"], value["decode"], value["batch"]) == (20, 12, 3)


def test_the_table_names_every_figure(toy: Path, gemma3_bench: Command):
    _, out, _ = gemma3_bench(toy, "--prefill", 20, "--decode", 12, "--repeats", 2)
    assert [line[:11].strip() for line in out.splitlines()] == [
        "load", "first token", "", "prefill", "decode", "peak memory",
    ]  # fmt: skip
    assert "in 2 repeats" in out


def test_decoding_is_measured_after_each_context(toy: Path, gemma3_bench: Command):
    arguments = (toy, "--prefill", 4, "--decode", 4, "--repeats", 1, "--context", "3,40")
    status, out, err = gemma3_bench(*arguments, "--json")
    assert (status, err) == (0, "")
    speeds = json.loads(out)["decode_at"]
    assert list(speeds) == ["3", "40"]
    assert min(speeds.values()) > 0
    _, out, _ = gemma3_bench(*arguments)
    assert "tok/s  after 40 tokens" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "8,x"], "--context: expected lengths such as 512,2048, got '8,x'"),
        (["--context", "0"], "--context: expected lengths such as 512,2048, got '0'"),
        (["--prefill", 4, "--decode", 4, "--context", "64"], "prompt of 64 tokens and 4 new"),
        (["--repeats", 0], "--repeats: expected at least 1, got 0"),
        (["--decode", 0], "--decode: expected at least 1, got 0"),
        ([], "prompt of 512 tokens and 128 new tokens does not fit: largest cache bucket is 64"),
        (
            ["--prefill", 4, "--decode", 4, "--batch", 5],
            "--batch 5 does not fit: largest batch bucket of",
        ),
        (["--mesh", "9x9"], "expected a mesh of the bundle (1x1, 2x4), got 9x9"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_status_2(
    toy: Path, gemma3_bench: Command, arguments: list[object], message: str
):
    status, out, err = gemma3_bench(toy, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
