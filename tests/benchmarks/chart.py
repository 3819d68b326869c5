"""The results as a picture: tokens per second by context, and the share of the memory limit.

Run as a script: `python chart.py results.json chart.png`. matplotlib is in the extra `bench`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from results import OURS, Case, Results

mpl.use("Agg")
import matplotlib.pyplot as plt

_COLOURS = {
    "bf16": "#1f6f8b", "int8": "#c8553d", "int4": "#588157",
    "BF16": "#1f6f8b", "Q8_0": "#c8553d", "Q4_0": "#588157",
}  # fmt: skip


def draw(results: Results, path: Path) -> None:
    """Write the picture to `path` (PNG)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.9), width_ratios=(3, 2))
    lines: dict[tuple[str, str], list[Case]] = {}
    for case in results.cases("decode"):
        if case.batch == 1:
            lines.setdefault((case.peer, case.weights), []).append(case)
    for (peer, weights), cases in sorted(lines.items(), key=lambda item: item[0][0] != OURS):
        cases.sort(key=lambda case: case.context)
        speeds = [results.median(case) or 0 for case in cases]
        positions = [_position(case.context) for case in cases]
        left.plot(
            positions, speeds, marker="o" if peer == OURS else "s",
            linestyle="-" if peer == OURS else "--", color=_COLOURS.get(weights, "#888888"),
            alpha=1 if peer == OURS else 0.6, label=f"{peer}, {weights}",
        )  # fmt: skip
    contexts = sorted({case.context for cases in lines.values() for case in cases})
    left.set_xticks([_position(context) for context in contexts], [str(c) for c in contexts])
    left.set_xlabel("tokens of context")
    left.set_ylabel("tokens per second, batch 1")
    left.set_ylim(bottom=0)
    left.grid(axis="y", alpha=0.3)
    left.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    _draw_shares(results, right)
    figure.suptitle(f"Decoding Gemma 3 270M, 2 threads, {results.machine['cpu']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _draw_shares(results: Results, axes) -> None:
    """Bars: how much of the measured memory rate goes into reading weights, at 512 of context."""
    shares = {
        f"{case.peer}, {case.weights}": (share, case)
        for case in results.cases("decode")
        if (case.batch, case.context) == (1, 512) and (share := results.share(case)) is not None
    }
    names = sorted(shares, key=lambda name: shares[name][0])
    axes.barh(
        names,
        [shares[name][0] for name in names],
        color=[_COLOURS.get(shares[name][1].weights, "#888888") for name in names],
        alpha=0.8,
    )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("share of the memory limit, context 512")


def _position(context: int) -> float:
    """Where a context stands: by its square root, so that short ones do not crowd."""
    return context**0.5


if __name__ == "__main__":
    draw(Results.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
