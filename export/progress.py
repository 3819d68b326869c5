"""The progress bar of an export: what is being done now, on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from ..artifacts.inspect.summary import format_bytes


class Bytes(int):
    """A number of bytes done, or to do, where other steps are counted one by one."""


class ExportProgress:
    """One line that says what is being lowered or written; silent where stderr is no terminal.

    A bar, how much is done, the time since this kind of step began and what is left of it, and
    what is under way; that is cut short where the terminal is narrow, not the rest.
    """

    def __init__(self, console: Console) -> None:
        name = TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        )
        self._bar = Progress(
            BarColumn(bar_width=12), _Count(), TimeElapsedColumn(), _Left(), name,
            console=console, transient=True, expand=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._shown = console.is_terminal
        self._task = self._bar.add_task("opening the checkpoint", total=None)
        self._kind: tuple[type, int] = (int, 0)

    def __enter__(self) -> ExportProgress:
        if self._shown:
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._shown:  # rich before 14.3 ends a bar that is disabled with an empty line
            self._bar.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show that `what` is under way, after `done` of `total` steps, or `Bytes`."""
        kind = (type(total), total)
        if kind != self._kind:  # of what takes another time: neither speed nor clock go on
            self._kind = kind
            self._bar.reset(self._task, total=total)
        self._bar.update(self._task, description=what, completed=done, total=total)


class _Count(ProgressColumn):
    """`3/12`, or `1.2/4.5 GiB`."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, justify="right"))

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        if task.total is None:
            return Text("")
        if isinstance(task.total, Bytes):
            size, unit = format_bytes(task.total).split(" ")
            scale = task.total / float(size) if float(size) else 1.0
            return Text(f"{task.completed / scale:.1f}/{size} {unit}")
        return Text(f"{int(task.completed)}/{int(task.total)}")


class _Left(TimeRemainingColumn):
    """The time that is left, once there is a speed to tell it from."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        if not task.total or task.time_remaining is None:
            return Text("")
        return super().render(task) + Text(" left", style="progress.remaining")
