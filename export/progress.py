"""The progress bar of an export: what is being done now, on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ExportProgress:
    """One line that says what is being lowered or written; silent where stderr is no terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.description}"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._shown = console.is_terminal
        self._task = self._bar.add_task("opening the checkpoint", total=None)

    def __enter__(self) -> ExportProgress:
        if self._shown:
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._shown:  # rich before 14.3 ends a bar that is disabled with an empty line
            self._bar.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show that `what` is under way, after `done` of `total` steps."""
        self._bar.update(self._task, description=what, completed=done, total=total)
