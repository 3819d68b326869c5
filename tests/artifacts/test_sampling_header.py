"""The C++ side of the table of sampling inputs is written from the Python one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gemma3_export.artifacts.convention import SAMPLING
from gemma3_export.artifacts.sampling_header import sampling_header

HEADER = Path(__file__).parents[2] / "runtime" / "native" / "src" / "sampling_table.h"


def test_checked_in_header_is_what_the_table_says():
    assert HEADER.read_text() == sampling_header()
    assert re.findall(r"^  X\((\w+), ", sampling_header(), re.MULTILINE) == [
        each.name for each in SAMPLING
    ]


@pytest.mark.parametrize("each", SAMPLING, ids=lambda each: each.name)
def test_neutral_values_are_in_range_and_ends_of_ranges_too(each):
    assert each.accepts(each.neutral)
    assert each.accepts(each.most)
    assert each.accepts(each.least) is not each.above_least
    assert not each.accepts(float("nan"))
    assert not each.accepts(each.least - 1)
