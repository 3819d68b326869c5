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
        (["--prefill", 4, "--decode", 4, "--context", "64"], "--context 64 and --decode 4 do not"),
        (["--repeats", 0], "--repeats: expected at least 1, got 0"),
        (["--decode", 0], "--decode: expected at least 1, got 0"),
        (["--prefill", 64], "--prefill 64 and --decode 1 do not fit: largest cache bucket of"),
        (["--prefill", 512], "ask for at most 64 tokens together, or re-export with --cache 1024"),
        (["--decode", 64], "--prefill 1 and --decode 64 do not fit"),
        (["--decode", 10**30], "--decode: expected an integer of 64 bits"),
        (["--batch", 5], "--batch 5 does not fit: largest batch bucket of"),
        (["--batch", 10**15], "ask for at most 4, or re-export with --batch 10000000000"),
        (["--mesh", "9x9"], "expected a mesh of the bundle (1x1, 2x4), got 9x9"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_status_2(
    toy: Path, gemma3_bench: Command, arguments: list[object], message: str
):
    status, out, err = gemma3_bench(toy, *arguments)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (status, out, len(lines)) == (2, "", 1)
    assert message in lines[0]


@pytest.mark.parametrize(
    ("arguments", "prefill", "decode"),
    [([], 48, 16), (["--prefill", 60], 60, 4), (["--decode", 60], 4, 60), (["--decode", 4], 60, 4)],
)
def test_what_is_not_asked_for_is_what_fits_and_is_said(
    toy: Path, gemma3_bench: Command, arguments: list[object], prefill: int, decode: int
):
    status, out, err = gemma3_bench(toy, *arguments, "--repeats", 1, "--json")
    assert status == 0
    assert err.startswith(f"note: --prefill {prefill} --decode {decode}, which fit the largest")
    value = json.loads(out)
    assert (value["prefill"], value["decode"], value["batch"]) == (prefill, decode, 1)
