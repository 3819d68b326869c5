"""What `--tune` measured: a table for people, or the same as data."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ..artifacts.codec import encode
from ..artifacts.inspect.tables import numbers, print_table, texts
from .tuning import Tuning, describe, shipped_form


def tuning_data(tuning: Tuning) -> dict[str, Any]:
    """The measurements as JSON values, times in seconds."""
    return {
        "file": str(tuning.path),
        "seconds": round(tuning.seconds, 3),
        "choices": [
            {
                "what": describe(choice.case),
                "case": encode(choice.case),
                "form": choice.form,
                "shipped": shipped_form(choice.case),
                "seconds": dict(choice.seconds),
            }
            for choice in tuning.choices
        ],
    }


def print_tuning(console: Console, data: dict[str, Any]) -> None:
    """A line for each product and attention: its form, beside the shipped one where they differ."""
    rows: list[list[str]] = []
    changed = 0
    for row in data["choices"]:
        form, shipped, seconds = row["form"], row["shipped"], row["seconds"]
        cells = [row["what"], form, _milliseconds(seconds[form])]
        if form != shipped:
            changed += 1
            faster = f"{seconds[shipped] / seconds[form]:.2f}x"
            cells += [shipped, _milliseconds(seconds[shipped]), faster]
        rows.append(cells)
    columns = [
        *texts("measured", "chosen"), *numbers("ms"), *texts("shipped"), *numbers("ms", "faster"),
    ]  # fmt: skip
    print_table(console, "", columns, rows, box=False)
    console.print(
        f"{data['file']}: {len(data['choices'])} measured in {data['seconds']:.1f} s, "
        f"{changed} chosen otherwise than the shipped table does\n"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"
