"""How many processes lower, and what their memory adds up to."""

from __future__ import annotations

import os

import pytest
from gemma3_export.artifacts.errors import UsageError
from gemma3_export.export import pipeline, report

from .conftest import Command


@pytest.mark.parametrize(
    ("cores", "flags", "jobs"), [(2, (), 2), (64, (), 4), (64, ("--jobs", "20"), 20), (None, (), 1)]
)
def test_each_core_gets_a_process_but_no_more_than_memory_allows_unless_asked(
    gemma3_export: Command, monkeypatch: pytest.MonkeyPatch,
    cores: int | None, flags: tuple[str, ...], jobs: int,
):  # fmt: skip
    asked = []

    def stop(options, progress):
        asked.append(options.jobs)
        raise UsageError("enough seen")

    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(pipeline, "export", stop)
    assert gemma3_export("--mesh", "1x1", *flags)[0] == 2
    assert asked == [jobs]


def test_reported_memory_counts_every_worker_as_the_largest(monkeypatch: pytest.MonkeyPatch):
    class Usage:
        def __init__(self, kilobytes: int) -> None:
            self.ru_maxrss = kilobytes

    sizes = {report.resource.RUSAGE_CHILDREN: Usage(30)}
    monkeypatch.setattr(report.resource, "getrusage", sizes.__getitem__)
    monkeypatch.setattr(report, "peak_rss_bytes", lambda: 100 * 1024)
    assert report._peak_rss_bytes(1) == 100 * 1024
    assert report._peak_rss_bytes(3) == (100 + 3 * 30) * 1024
