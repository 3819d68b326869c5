"""Tables that lose nothing where a terminal is narrow: a block of lines for each record instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Sequence[str]


Column = tuple[str, Literal["left", "right"]]
"""Name and which side its cells keep to."""


def texts(*names: str) -> list[Column]:
    """Columns of text."""
    return [(name, "left") for name in names]


def numbers(*names: str) -> list[Column]:
    """Columns of numbers."""
    return [(name, "right") for name in names]


def print_table(
    console: Console,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    box: bool = True,
) -> None:
    """Records in columns, or where those do not fit the width one under the other.

    Args:
        title: stands above; empty for none.
        columns: from the left.
        rows: the records, a cell for each column; those at the end may be left out.
        box: whether there are lines around the cells.
    """
    table = Table(title=title or None, title_justify="left")
    if not box:
        table.box, table.pad_edge = None, False
    for name, side in columns:
        table.add_column(name, justify=side)
    for row in rows:
        table.add_row(*row)
    if console.measure(table, options=console.options.update(width=10_000)).maximum > console.width:
        _print_blocks(console, title, [name for name, _ in columns], rows)
    else:
        console.print(table)


def _print_blocks(console: Console, title: str, names: Row, rows: Sequence[Row]) -> None:
    if title:
        console.print(Text(title, style="italic"))
    width = max(map(len, names))
    for row in rows:
        for name, cell in zip(names, row, strict=False):
            # Text, which no console takes for markup; what is too long is folded, not cut.
            console.print(Text(f"{name:<{width}}  {cell}"), overflow="fold")
        console.print()
