"""Every field of a job as a command-line option, by construction: a command that is decorated so takes them all."""

import inspect
import types
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from pipelines.config import Job, load_job


def takes_job(command: Callable[..., None], without: frozenset[str] = frozenset()) -> Callable[..., None]:
    """Give `command(job, …)` the options `--config` and one for each field of Job, and hand it the job they make.

    Fields `without` an option still stand in job files, which serve several commands.
    """

    @wraps(command)
    def wrapped(*, config: Path | None = None, **options: Any) -> None:
        own = {name: options.pop(name) for name in list(options) if name not in Job.model_fields}
        command(load_job(config, options), **own)

    option = typer.Option(help="Job file (YAML) with the fields below; options win over it.", rich_help_panel="Job")
    parameters = [_keyword("config", Annotated[Path | None, option])]
    for name, field in Job.model_fields.items():
        if name in without:
            continue
        default = "" if field.is_required() or field.default in (None, ()) else f" [default: {field.default}]"
        settings = typer.Option(
            f"--{name.replace('_', '-')}", help=f"{field.description}{default}", rich_help_panel="Job"
        )
        parameters.append(_keyword(name, Annotated[_option_type(field.annotation) | None, settings]))
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "job"]
    parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option_type(annotation: Any) -> Any:
    """Return what the command line parses: lists and choices travel as text, which the job's model checks."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal or get_origin(annotation) is tuple:
        return str
    return annotation
