"""How many processes lower, and what their memory adds up to."""

from __future__ import annotations

import os
from types import SimpleNamespace

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


@pytest.mark.parametrize(
    ("workers", "largest_child", "peak"),
    [(1, 0, 100), (3, 30, 100 + 3 * 30), (1, 70, 170), (3, 200, 300)],
    ids=["alone", "workers", "one process afterwards", "it is larger than the workers together"],
)
def test_reported_memory_is_of_all_processes_that_ran_at_once(
    monkeypatch: pytest.MonkeyPatch, workers: int, largest_child: int, peak: int
):
    monkeypatch.setattr(report, "peak_rss_bytes", lambda: 100)
    monkeypatch.setattr(report, "largest_child_bytes", lambda: largest_child)
    assert report._peak_rss_bytes(SimpleNamespace(largest_worker_bytes=30), workers) == peak
