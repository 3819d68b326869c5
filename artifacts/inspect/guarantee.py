"""How long jax promises to read what it exported, from the versions in the manifest.

jax.export promises that a program can be read and run by every jax released within six months
after the jax that exported it (docs.jax.dev, "Exporting and serializing staged-out
computations", Compatibility guarantees; since jax 0.11.1 older files are refused). The
`.mlirbc` files are portable StableHLO, whose own promise is longer and does not bind here.
"""

from __future__ import annotations

import calendar
import datetime

RELEASED = {
    "0.10.0": datetime.date(2026, 4, 16),
    "0.10.1": datetime.date(2026, 5, 18),
    "0.10.2": datetime.date(2026, 6, 17),
    "0.11.0": datetime.date(2026, 7, 16),
    "0.11.1": datetime.date(2026, 8, 17),
    "0.11.2": datetime.date(2026, 9, 17),
    "0.12.0": datetime.date(2026, 10, 16),
    "0.12.0.1": datetime.date(2026, 10, 20),
}
"""Days on which jax versions were made: the dates of the files in their wheels. Development
versions carry theirs in the name (`0.11.0.dev20260701`)."""
MONTHS = 6


def released(jax_version: str) -> datetime.date | None:
    """The day a jax version was made, None when this build does not know."""
    _, _, stamp = jax_version.partition(".dev")
    if len(stamp) == 8 and stamp.isdecimal():
        try:
            return datetime.date(int(stamp[:4]), int(stamp[4:6]), int(stamp[6:]))
        except ValueError:
            return None
    return RELEASED.get(jax_version)


def guaranteed_until(jax_version: str) -> datetime.date | None:
    """The last day of jax releases that must read programs exported by `jax_version`.

    None when the version's own date is not known.
    """
    start = released(jax_version)
    if start is None:
        return None
    month = start.month - 1 + MONTHS
    year, month = start.year + month // 12, month % 12 + 1
    return datetime.date(year, month, min(start.day, calendar.monthrange(year, month)[1]))
