"""How a command fails: what users can mend is one line and an exit code; anything else keeps its traceback.

The line goes to standard error, where progress goes too, so that standard output stays for results.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

OTHER, WRONG_INPUT, WITHHELD = 1, 2, 3

console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)


def told_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what users can mend into one line and an exit code; anything else keeps its traceback and exits with 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from governance.policy import PolicyError
        from governance.publish import PublishError
        from governance.tracking import TrackingUnavailable
        from models.registry import WeightsChanged, WeightsMissing
        from operators.schema import InputError
        from pipelines.cluster import ClusterUnreachable

        try:
            command(*args, **kwargs)
        except (InputError, PolicyError, PublishError, WeightsMissing, WeightsChanged) as fault:
            console.print(f"[bold red]voxveil:[/] {escape(str(fault))}", soft_wrap=True)
            raise typer.Exit(WRONG_INPUT) from None
        except ClusterUnreachable as fault:
            console.print(f"[bold red]voxveil:[/] {escape(str(fault))}", soft_wrap=True)
            raise typer.Exit(OTHER) from None
        except TrackingUnavailable as fault:
            console.print(f"[bold red]voxveil:[/] {escape(str(fault))}", soft_wrap=True)
            console.print("Nothing was released. The staged result is kept: run the same command with --resume.")
            raise typer.Exit(OTHER) from None

    return wrapped
