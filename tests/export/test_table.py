"""The table at the end of an export."""

from __future__ import annotations

import io
from typing import Any

from gemma3_export.export.report import print_result
from rich.console import Console


def _table(*variants: str) -> list[str]:
    rows: list[dict[str, Any]] = [
        {
            "mesh": "1x1", "platform": "cpu", "program": "prefill", "variant": variant,
            "batch": 1, "tokens": 32, "cache": 64, "argument_bytes": 1, "program_bytes": 2,
            "seconds": 1.0, "device_bytes": 3,
        }
        for variant in variants
    ]  # fmt: skip
    data = {
        "bundle": "b", "model": "m", "parameters": 1, "dtype": "bfloat16", "abstract": False,
        "programs": rows, "fallbacks": {}, "notes": [], "tuning": None, "seconds": 1.0,
        "peak_rss_bytes": 1,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    print_result(console, data)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_programs_with_kernels_are_told_from_those_without():
    head, portable, kernels, *_ = _table("portable", "kernels")
    assert head.split()[:4] == ["mesh", "platform", "program", "variant"]
    assert portable.split()[:4] == ["1x1", "cpu", "prefill", "portable"]
    assert kernels.split()[:4] == ["1x1", "cpu", "prefill", "kernels"]


def test_no_column_has_the_name_of_another_or_nothing_to_say():
    head = _table("portable")[0].replace("per device", "per_device").split()
    assert len(set(head)) == len(head)
    assert "variant" not in head
