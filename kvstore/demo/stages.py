"""The demo's progress: one line a stage, with a bar while it runs and its duration when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

__all__ = ["Stages"]


class Stages:
    """A group of stages on `console`, for a `with` statement; they stay on the screen when it ends."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold cyan]{task.fields[who]}[/]", table_column=Column(min_width=8)),
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=16),
            _Seconds(table_column=Column(justify="right", min_width=6)),
            console=console,
            expand=True,
        )

    @contextmanager
    def stage(self, who: str, what: str) -> Iterator[Callable[[float], None]]:
        """One stage; what it yields takes the fraction that is done. A stage that raises stays unfinished."""
        task = self._progress.add_task(what, who=who, total=None)

        def advance(fraction: float) -> None:
            self._progress.update(task, total=1.0, completed=min(fraction, 0.999))

        yield advance
        self._progress.update(task, total=1.0, completed=1.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        return Text(f"{seconds or 0:.1f} s", style="dim")
