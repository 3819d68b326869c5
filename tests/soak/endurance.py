"""Long use of one loaded bundle: memory, speed and tokens at the end as at the start.

`python -m tests.soak.endurance BUNDLE one_session|many_sessions COUNT` prints the figures as JSON.
Speed is counted in processor seconds of the process: other work on the machine, and pauses,
change the clock on the wall and not what a token costs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gemma3_export.artifacts.memory import return_freed_memory
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.sampling import SamplingParameters
from gemma3_export.runtime.requests.session import Session

PROMPT = [2, 17, 18, 19, 20]
_PARTS = 10


@dataclass(frozen=True)
class Endured:
    """Figures of a stretch, cut into ten parts; the first is warming up.

    `memory` and `cost` compare the last part with the second: 1.0 is no change. `cost` is of a
    token, or of a session.
    """

    count: int
    memory: float
    cost: float
    same_tokens: bool


def one_session(model: LoadedModel, tokens: int) -> Endured:
    """`tokens` tokens through one session, and a short text before and after it."""
    before = short_text(model)
    shape = max(model.grid.generating(), key=lambda shape: (-shape.batch, shape.cache))
    session = Session(model, shape, SamplingParameters())
    session.prefill([PROMPT], tokens)
    memory, costs, seen, began = [], [], 0, time.process_time()
    part = tokens // _PARTS
    for step in session.generate():
        seen += len(step.tokens[0])
        if seen >= part * (len(costs) + 1):
            costs.append(time.process_time() - began)
            began = time.process_time()
            memory.append(resident())
    return _endured(seen + 1, memory, costs, before == short_text(model))


def many_sessions(model: LoadedModel, sessions: int) -> Endured:
    """`sessions` short texts one after the other; the tokens of all must be those of the first."""
    first, memory, costs, same = short_text(model), [], [], True
    for _ in range(_PARTS):
        part = []
        for _ in range(sessions // _PARTS):
            began = time.process_time()
            same &= short_text(model) == first
            part.append(time.process_time() - began)
        costs.append(statistics.median(part))
        memory.append(resident())
    return _endured(sessions // _PARTS * _PARTS, memory, costs, same)


def short_text(model: LoadedModel, tokens: int = 16) -> list[int]:
    """Greedy tokens after the prompt, from a session of its own."""
    shape = min(model.grid.generating(), key=lambda shape: (shape.batch, shape.cache))
    session = Session(model, shape, SamplingParameters())
    found = list(session.prefill([PROMPT], tokens).tokens[0])
    for step in session.generate():
        found += step.tokens[0]
    return found


def resident() -> int:
    """Bytes of this process in memory now, after giving back what is free."""
    return_freed_memory()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def _endured(count: int, memory: list[int], costs: list[float], same: bool) -> Endured:
    return Endured(count, memory[-1] / memory[1], costs[-1] / costs[1], same)


def main() -> None:
    """Load the bundle named first, run a stretch and print its figures."""
    stretches = {"one_session": one_session, "many_sessions": many_sessions}
    model = LoadedModel.load(Path(sys.argv[1]))
    print(json.dumps(asdict(stretches[sys.argv[2]](model, int(sys.argv[3])))))


if __name__ == "__main__":
    main()
