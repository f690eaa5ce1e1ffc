"""Progress that a person can watch and a log file can keep: bars on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 10.0


class Track:
    """Counts rows under descriptions; `say` prints a line between."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self.console = console
        self.progress = progress
        self.tasks: dict[str, Any] = {}
        self.counts: dict[str, list[float]] = {}

    def begin(self, description: str, total: int, done: int = 0) -> None:
        """Start counting to `total`, `done` of which a former run did."""
        self.counts[description] = [done, total, time.monotonic()]
        if self.progress is not None:
            self.tasks[description] = self.progress.add_task(description, total=total, completed=done)
        else:
            self.console.print(
                f"{description}: 0 of {total}" if not done else f"{description}: resumes at {done} of {total}"
            )

    def advance(self, description: str, rows: int) -> None:
        """Count `rows` more."""
        count = self.counts[description]
        count[0] += rows
        if self.progress is not None:
            self.progress.advance(self.tasks[description], rows)
        elif time.monotonic() - count[2] > LINE_EVERY_SECONDS or count[0] >= count[1]:
            count[2] = time.monotonic()
            self.console.print(f"{description}: {count[0]:.0f} of {count[1]:.0f}")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, markup=False, soft_wrap=True)


@contextmanager
def tracking_progress(console: Console) -> Iterator[Track]:
    """Give a Track that draws bars where `console` is a terminal."""
    if not console.is_terminal:
        yield Track(console, None)
        return
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Track(console, progress)
