"""The command line. Every command ends with an exit code that a job scheduler can act on:

0 released (or done), 3 withheld or for review, 2 the input or the configuration is wrong, 1 anything else.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from rich.console import Console

RELEASED, OTHER, WRONG_INPUT, NOT_RELEASED = 0, 1, 2, 3

app = typer.Typer(
    name="voxveil",
    help="Anonymize a speech corpus, attack the result, and release it only when a written policy is met.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line; libraries are told to keep to themselves first."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    app()


def told_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what users can mend into one line and an exit code; anything else keeps its traceback and exits with 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from governance.policy import PolicyError
        from governance.publish import PublishError
        from governance.tracking import TrackingUnavailable
        from models.registry import WeightsChanged, WeightsMissing
        from operators.schema import InputError

        try:
            command(*args, **kwargs)
        except (InputError, PolicyError, PublishError, WeightsMissing, WeightsChanged) as fault:
            console.print(f"[bold red]voxveil:[/] {_escaped(str(fault))}", soft_wrap=True)
            raise typer.Exit(WRONG_INPUT) from None
        except TrackingUnavailable as fault:
            console.print(f"[bold red]voxveil:[/] {_escaped(str(fault))}", soft_wrap=True)
            console.print("Nothing was released. The staged result is kept: run the same command with --resume.")
            raise typer.Exit(OTHER) from None

    return wrapped


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
