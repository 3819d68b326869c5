"""What tests take of the processors: told with `--durations`, by file, the dearest first.

Seconds of processors say what a test costs; seconds on the wall also what else the machine did.
Processes that a test starts count once they have ended, with the test that waited for them.
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Generator

import pytest
from _pytest.terminal import TerminalReporter

_NAME = "processor_seconds"
_FILES = 25


def processor_seconds() -> float:
    """Of this process and of those it started and waited for, in user and system mode."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


class Costs:
    """Measures where tests run, and adds up where their reports arrive."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = 0.0
        self._files: defaultdict[str, float] = defaultdict(float)
        self._processes: list[float] = []

    def pytest_runtest_logstart(self) -> None:
        self._began = processor_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if call.when == "teardown":
            item.user_properties.append((_NAME, processor_seconds() - self._began))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == _NAME and isinstance(value, float):
                self._files[report.nodeid.split("::", 1)[0]] += value

    def pytest_sessionfinish(self) -> None:
        if output := getattr(self._config, "workeroutput", None):
            output[_NAME] = processor_seconds()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        self._processes.append(getattr(node, "workeroutput", {}).get(_NAME, 0.0))

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        if not self._config.getoption("durations"):
            return
        processes = self._processes or [processor_seconds()]
        terminalreporter.section(
            f"{sum(processes):.0f} processor seconds in {len(processes)} processes, "
            f"{sum(self._files.values()):.0f} of them in tests"
        )
        dearest = sorted(self._files.items(), key=lambda cost: -cost[1])
        for file, seconds in dearest[:_FILES]:
            terminalreporter.write_line(f"{seconds:8.1f} {file}")
