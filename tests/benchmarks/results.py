"""What was measured, by case; medians, spread, ratios and goals."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "gemma3-export"


@dataclass(frozen=True)
class Case:
    """What was measured: `decode` and `prefill` in tokens per second over all rows, `start` in
    seconds, `memory` in bytes, `limit` in bytes or operations per second."""

    what: str
    peer: str
    weights: str
    batch: int
    context: int


@dataclass
class Results:
    """All samples of a run, and facts about it."""

    machine: dict[str, object]
    facts: dict[str, Any] = field(default_factory=dict)
    samples: dict[Case, list[float]] = field(default_factory=dict)

    def add(self, case: Case, value: float) -> None:
        """One more sample."""
        self.samples.setdefault(case, []).append(value)

    def median(self, case: Case) -> float | None:
        """The median, None for what was not measured."""
        return statistics.median(self.samples[case]) if self.samples.get(case) else None

    def to_json(self) -> str:
        """Everything, for machines."""
        rows = [
            {
                **asdict(case),
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "samples": values,
            }
            for case, values in self.samples.items()
        ]
        return json.dumps({"machine": self.machine, "facts": self.facts, "rows": rows}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Results:
        """What `to_json` wrote."""
        value = json.loads(text)
        names = ("what", "peer", "weights", "batch", "context")
        samples = {Case(*(row[n] for n in names)): row["samples"] for row in value["rows"]}
        return cls(value["machine"], value["facts"], samples)

    def cases(self, what: str) -> list[Case]:
        """The cases of one kind."""
        return [case for case in self.samples if case.what == what]

    @property
    def llama(self) -> str | None:
        """Which llama.cpp was measured."""
        peers = {case.peer for case in self.samples if case.peer.startswith("llama.cpp")}
        return min(peers, default=None)

    def share(self, case: Case) -> float | None:
        """Of the memory limit: bytes of weights a second, by the rate measured in the run."""
        rate = self.median(Case("limit", "memory read", "", 0, 0))
        speed = self.median(case)
        weights = self.facts.get("bytes a token", {}).get(case.weights)
        if rate is None or speed is None or weights is None:
            return None
        return speed / case.batch * weights / rate


@dataclass(frozen=True)
class Goal:
    """A ratio of ours to a peer's; `least` times as fast is what was aimed at."""

    name: str
    ours: Case
    peer: Case
    least: float


def goals(llama: str) -> list[Goal]:
    """What is aimed at, each as ours against theirs."""

    def decode(weights: str, peer: str, context: int, least: float, batch: int = 1) -> Goal:
        rows = f", batch {batch}" if batch > 1 else ""
        return Goal(
            f"decode at {context}{rows}: {weights} to {peer}",
            Case("decode", OURS, weights, batch, context),
            Case("decode", llama, peer, batch, context),
            least,
        )

    return [
        decode("bf16", "BF16", 512, 1.2),
        decode("int8", "Q8_0", 512, 1.2),
        decode("int4", "Q4_0", 512, 1.0),
        decode("int8", "Q8_0", 8192, 1.5),
        decode("int8", "Q8_0", 512, 1.4, batch=8),
        Goal(
            "decode at 512: bf16 to plain jax.jit",
            Case("decode", OURS, "bf16", 1, 512),
            Case("decode", "plain jax.jit, textbook forms", "bf16", 1, 512),
            5.0,
        ),
    ]


def ratio_lines(results: Results) -> list[str]:
    """Ours to theirs, with what was aimed at; losses too."""
    llama = results.llama
    if llama is None:
        return []
    lines = []
    for goal in goals(llama):
        ours, theirs = results.median(goal.ours), results.median(goal.peer)
        if ours and theirs:
            lines.append(_ratio(goal.name, ours / theirs, goal.least))
    prefill = {
        who: max(
            (results.median(c) or 0 for c in results.cases("prefill")
             if c.peer == who and c.batch == 1), default=0,
        )
        for who in (OURS, llama)
    }  # fmt: skip
    if all(prefill.values()):
        lines.append(_ratio("prefill of 512, best to best", prefill[OURS] / prefill[llama], 1.4))
    ours = results.median(Case("start", OURS, "bf16", 1, 0))
    theirs = results.median(Case("start", llama, "BF16", 1, 0))
    if ours and theirs:
        lines.append(_ratio("second start to one token: llama.cpp to ours", theirs / ours, 1))
    return lines


def _ratio(name: str, value: float, least: float) -> str:
    return f"{name:52} {value:6.2f}  goal {least:.1f}  {'met' if value >= least else 'missed'}"


def print_tables(results: Results) -> None:
    """Everything, for people."""
    print(", ".join(f"{name} {value}" for name, value in results.machine.items()))
    for name, unit in (
        ("memory read", "GB/s"),
        ("float32 product", "GFLOP/s"),
        ("bfloat16 product", "GFLOP/s"),
    ):
        value = results.median(Case("limit", name, "", 0, 0))
        if value is not None:
            print(f"{name} {value / 1e9:.1f} {unit}")
    for name, variant in results.facts.get("variants", {}).items():
        print(f"{name}: {variant} programs")
    compiled = results.facts.get("compile all")
    if compiled:
        print(f"compile of all {compiled['programs']} programs: {compiled['seconds']:.1f} s")
    for what, unit in (("decode", "tok/s"), ("prefill", "tok/s")):
        print(f"\n{what:34} {'weights':7} batch context {unit:>7}  {'min':>6} {'max':>6}  of limit")
        for case in sorted(results.cases(what), key=_order):
            values = results.samples[case]
            share = results.share(case) if what == "decode" else None
            shown = "" if share is None else f"{share:8.2f}"
            print(
                f"{case.peer:34} {case.weights:7} {case.batch:5} {case.context:7} "
                f"{statistics.median(values):7.1f}  {min(values):6.1f} {max(values):6.1f}  {shown}"
            )
    starts = sorted(results.cases("start"), key=_order)
    if starts:
        print(f"\n{'one token, a process of its own':34} {'weights':7} seconds  peak MB")
    for case in starts:
        memory = results.median(Case("memory", case.peer, case.weights, 1, 0)) or 0
        print(f"{case.peer:34} {case.weights:7} {results.median(case):7.2f} {memory / 1e6:8.0f}")
    lines = ratio_lines(results)
    print("\n".join(["\nours to theirs", *lines]) if lines else "")


def _order(case: Case) -> tuple[int, int, bool, str, str]:
    return case.batch, case.context, case.peer != OURS, case.peer, case.weights
