"""Tables lose no number, however narrow the terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.inspect.summary import print_summary, summarize
from gemma3_export.artifacts.inspect.tables import numbers, print_table, texts
from rich.console import Console

COLUMNS = [*texts("mesh", "program"), *numbers("tokens", "bytes")]
ROWS = [("2x4", "prefill", "512", "13.5 MiB"), ("1x1", "decode", "1")]


def printed(width: int, rows: list[tuple[str, ...]]) -> list[str]:
    file = io.StringIO()
    print_table(Console(file=file, width=width), "Programs", COLUMNS, rows)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_what_fits_is_a_table_and_what_does_not_a_block_for_each_record():
    wide = printed(80, ROWS)
    assert wide[0] == "Programs"
    assert wide[4].split() == ["│", "2x4", "│", "prefill", "│", "512", "│", "13.5", "MiB", "│"]
    assert printed(24, ROWS) == [
        "Programs",
        "mesh     2x4", "program  prefill", "tokens   512", "bytes    13.5 MiB", "",
        "mesh     1x1", "program  decode", "tokens   1", "",
    ]  # fmt: skip


def test_a_cell_that_is_wider_than_the_terminal_is_folded():
    lines = printed(20, [("dp=1,fsdp=2,tp=4,sp=1", "prefill", "512", "1")])
    assert lines[1:4] == ["mesh", "dp=1,fsdp=2,tp=4,sp=", "1"]


def test_names_are_not_taken_for_markup():
    assert "mesh     [bold]" in printed(20, [("[bold]", "prefill", "512", "1")])


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_summary_has_every_number_of_a_wide_one(tiny: Path, width: int):
    def found(columns: int) -> str:
        file = io.StringIO()
        console = Console(file=file, width=columns, markup=False, highlight=False, emoji=False)
        print_summary(console, summarize(Bundle.open(tiny)))
        return file.getvalue()

    wide, narrow = found(200), found(width)
    assert max(map(len, narrow.splitlines())) <= width
    assert "…" not in narrow
    together = re.sub(r"[\s│]+", "", narrow)  # a path may be folded
    counted = set(re.findall(r"\d[\d.]*", wide))
    assert len(counted) > 20
    assert [number for number in counted if number not in together] == []
