"""Charts of the report as SVG text: no scripts, no fonts of their own, readable in print."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ..manifest import Mesh, Spec
from .summary import format_bytes

COLOURS = ("#2f6f9f", "#d98032", "#6aa84f", "#8e5ea2")
_TEXT = "#222"
_LINE = "#999"
_ROW, _LEFT, _WIDTH = 22, 300, 900
_MOST_PARTS = 16


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: what it is, and the sizes of its pieces in bytes."""

    label: str
    pieces: tuple[int, ...]


def bar_chart(bars: Sequence[Bar], names: Sequence[str], title: str) -> str:
    """Stacked horizontal bars, one piece for each of `names`, totals in bytes at their ends."""
    most = max((sum(bar.pieces) for bar in bars), default=1) or 1
    room = _WIDTH - _LEFT - 110
    rows = [_legend(names)]
    for number, bar in enumerate(bars):
        y, x = 30 + number * _ROW, float(_LEFT)
        rows.append(_text(_LEFT - 8, y + 14, bar.label, anchor="end"))
        for colour, piece in zip(COLOURS, bar.pieces, strict=False):
            width = room * piece / most
            rows.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.2f}" height="{_ROW - 6}" '
                f'fill="{colour}"><title>{format_bytes(piece)}</title></rect>'
            )
            x += width
        rows.append(_text(x + 6, y + 14, format_bytes(sum(bar.pieces))))
    return _svg(_WIDTH, 40 + len(bars) * _ROW, title, rows)


def line_chart(
    xs: Sequence[int], lines: Sequence[tuple[str, Sequence[int]]], title: str, x_name: str
) -> str:
    """Lines of bytes over `xs`, both axes from zero; each line is named at its end."""
    width, height, left, bottom = _WIDTH, 320, 90, 40
    most = max((max(ys) for _, ys in lines), default=1) or 1
    far = max(xs) or 1

    def place(x: int, y: int) -> tuple[float, float]:
        across = left + (width - left - 170) * x / far
        return across, height - bottom - (height - bottom - 20) * y / most

    rows = []
    for part in range(5):
        x, y = far * part // 4, most * part // 4
        _, at = place(0, y)
        rows.append(_rule(left, at, width - 170, at))
        rows.append(_text(left - 8, at + 4, format_bytes(y), anchor="end"))
        rows.append(_text(place(x, 0)[0], height - bottom + 18, f"{x:,}", anchor="middle"))
    rows.append(_text((left + width - 170) / 2, height - 6, x_name, anchor="middle"))
    for colour, (name, ys) in zip(COLOURS, lines, strict=False):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(place, xs, ys))
        rows.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        end = place(xs[-1], ys[-1])
        rows.append(_text(end[0] + 8, end[1] + 4, f"{name}: {format_bytes(ys[-1])}", fill=colour))
    return _svg(width, height, title, rows)


def placement(shape: Sequence[int], spec: Spec, mesh: Mesh) -> str:
    """A tensor as a rectangle, cut as the mesh cuts it, each part named by its devices.

    The first two dimensions that are cut are drawn; where none is, every device has all of it.
    """
    cut = [d for d, axes in enumerate(spec) if _parts(axes, mesh) > 1][:2]
    down = cut[0] if cut else None
    across = cut[1] if len(cut) > 1 else None
    if down is not None and across is None and down > 0:
        down, across = None, down  # columns are drawn side by side
    rows, columns = (1 if d is None else _parts(spec[d], mesh) for d in (down, across))
    holders: dict[tuple[int, int], list[int]] = {}
    for device, coordinates in enumerate(_coordinates(mesh)):
        cell = tuple(
            0 if d is None else _part_of(spec[d], coordinates, mesh) for d in (down, across)
        )
        holders.setdefault((cell[0], cell[1]), []).append(device)
    if rows > _MOST_PARTS or columns > _MOST_PARTS:
        return f"<span>{rows} x {columns} parts</span>"
    return _cells(shape, rows, columns, holders, mesh.devices)


def _cells(
    shape: Sequence[int], rows: int, columns: int, holders: dict[tuple[int, int], list[int]],
    devices: int,
) -> str:  # fmt: skip
    width, height = max(150, 52 * columns), max(26, 20 * rows)
    drawn = []
    for (row, column), held in sorted(holders.items()):
        x, y = width * column / columns, height * row / rows
        hue, grey = 360 * held[0] / devices, len(holders) == 1  # grey: all of it is everywhere
        fill = "#ececec" if grey else f"hsl({hue:.0f} 55% 82%)"
        drawn.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width / columns:.1f}" '
            f'height="{height / rows:.1f}" fill="{fill}" stroke="{_LINE}"/>'
        )
        middle = x + width / columns / 2, y + height / rows / 2 + 4
        drawn.append(_text(*middle, _ranges(held), anchor="middle", size=11))
    size = " x ".join(map(str, shape))
    return _svg(width, height, f"{size}: devices that hold each part", drawn)


def _coordinates(mesh: Mesh) -> Iterable[dict[str, int]]:
    names = [axis.name for axis in mesh.axes]
    for place in itertools.product(*(range(axis.size) for axis in mesh.axes)):
        yield dict(zip(names, place, strict=True))


def _parts(axes: Iterable[str], mesh: Mesh) -> int:
    sizes = {axis.name: axis.size for axis in mesh.axes}
    return math.prod(sizes[name] for name in axes)


def _part_of(axes: Iterable[str], coordinates: dict[str, int], mesh: Mesh) -> int:
    """Which part a device holds: the first axis is the major one."""
    sizes = {axis.name: axis.size for axis in mesh.axes}
    part = 0
    for name in axes:
        part = part * sizes[name] + coordinates[name]
    return part


def _ranges(numbers: Sequence[int]) -> str:
    """`0, 1, 2, 3, 8` as `0-3,8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _legend(names: Sequence[str]) -> str:
    parts, x = [], float(_LEFT)
    for colour, name in zip(COLOURS, names, strict=False):
        parts.append(f'<rect x="{x}" y="4" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 17, 15, name))
        x += 40 + 7.5 * len(name)
    return "".join(parts)


def _text(
    x: float, y: float, text: str, anchor: str = "start", fill: str = _TEXT, size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" '
        f'font-size="{size}">{escape(text)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_LINE}" '
        'stroke-width="0.5"/>'
    )


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A picture that shrinks with the page, and says what it is to readers that do not see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif"><title>{escape(title)}</title>'
        + "".join(parts)
        + "</svg>"
    )
