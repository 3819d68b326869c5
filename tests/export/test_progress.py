"""What people see while an export runs."""

from __future__ import annotations

import io

from gemma3_export.export.progress import Bytes, ExportProgress
from rich.console import Console

NAME = "lowering prefill_images batch 8 tokens 512 cache 131072 for dp=1,fsdp=2,tp=4,sp=1 on cpu"


def _shown(width: int, *updates: tuple[str, int, int]) -> str:
    """The line after the updates, which are half a minute apart."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with ExportProgress(console) as progress:
        clock = [0.0]
        progress._bar.get_time = lambda: clock[0]
        for update in updates:
            clock[0] += 30
            progress.update(*update)
        with console.capture() as capture:
            console.print(progress._bar.get_renderable())
    return capture.get().removeprefix("\r\x1b[2K").split("\n")[0]


def test_a_long_name_is_cut_and_squeezes_nothing_else_at_80_columns():
    line = _shown(80, (NAME, 0, 144), (NAME, 1, 144), (NAME, 2, 144))
    assert len(line) <= 80
    assert line.index("2/144") > 12  # the bar
    assert " 2/144 " in line
    assert "left lowering prefill_images" in line
    assert line.rstrip().endswith("…")


def test_programs_have_elapsed_and_remaining_time():
    line = _shown(120, ("a", 0, 12), ("b", 1, 12), ("c", 2, 12))
    assert " 2/12 " in line
    assert "0:05:00 left" in line


def test_weights_are_counted_in_bytes_with_a_clock_of_their_own():
    gib = 1 << 30
    lowered = [("a", 0, 12), ("b", 11, 12)]
    written = [("weights: embed", Bytes(gib * i), Bytes(4 * gib)) for i in range(3)]
    line = _shown(120, *lowered, *written)
    assert " 2.0/4.0 GiB " in line
    assert "0:01:00 left weights: embed" in line


def test_where_nobody_watches_nothing_is_said():
    console = Console(file=io.StringIO(), force_terminal=False)
    with ExportProgress(console) as progress:
        progress.update("a", 1, 2)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
