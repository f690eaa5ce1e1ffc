"""`voxveil serve`: the live service on this machine, or joined to the cluster of RAY_ADDRESS."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.serve_ray import run_service

if TYPE_CHECKING:
    from serve.config import ServeConfig

LOOPBACK = ("127.0.0.1", "localhost", "::1")

console = Console(stderr=True, highlight=False)


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file; docs/streaming.md lists its fields.", dir_okay=False)
    ] = None,
    anonymizer: Annotated[str | None, typer.Option(help="streamvoiceanon, mcadams or identity.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="streamvoiceanon: checkpoint folder, or Plachta/StreamVoiceAnon; default: the embedded one."),
    ] = None,
    voices: Annotated[
        str | None,
        typer.Option(help="streamvoiceanon: voice bank, made by `voxveil voices build`; default: the embedded one."),
    ] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs (or a fraction) for each replica.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 8000,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Print a fresh token with its hash, and stop.")
    ] = False,
) -> None:
    """Talk and be anonymous: serve live streams, files and the web page.

    Options win over the file. Says when it is ready; Ctrl-C (or SIGTERM) drains the calls and stops.
    """
    from serve.config import ConfigError
    from serve.tokens import new_token as make_token

    if new_token:
        token, digest = make_token()
        typer.echo(f"token   {token}\nsha256  {digest}")
        console.print("Give the first to its owner; put the second into the configuration. It is not shown again.")
        return
    try:
        settings = load_settings(config, anonymizer, model, voices, gpus)
        if host not in LOOPBACK and not settings.tokens and not settings.open:
            raise ConfigError(
                f"listening on {host} without tokens would let anybody in: add tokens (voxveil serve --new-token), "
                "or `open: true` if something in front keeps strangers out"
            )
        if not is_free(host, port):
            raise ConfigError(f"cannot listen on {host}:{port}; is another server there? --port takes another one")
    except ConfigError as fault:
        _complain(str(fault))
        raise typer.Exit(2) from None
    try:
        run_service(settings.model_dump(mode="json"), host, port, console)
    except RuntimeError as fault:  # a replica's own words are the last of many lines
        _complain(f"the service did not start: {str(fault).strip().splitlines()[-1]}")
        raise typer.Exit(1) from None


def _complain(what: str) -> None:
    console.print("[bold red]voxveil:[/] " + escape(what), markup=True, soft_wrap=True)


def load_settings(
    config: Path | None, anonymizer: str | None, model: str | None, voices: str | None, gpus: float | None
) -> "ServeConfig":
    """Return the configuration of a file and of the options given; raises ConfigError where it or a path is wrong."""
    from pipelines.registered import local_model
    from serve.config import absolute_paths, parse_config, read_config

    fields = read_config(config) if config is not None else {}
    given = {"anonymizer": anonymizer, "model": model, "voices": voices}
    options = {name: value for name, value in given.items() if value is not None}
    fields |= options | absolute_paths(options, Path.cwd())
    if isinstance(fields.get("model"), str):
        fields["model"] = local_model(fields["model"])
    if gpus is not None:
        fields["replicas"] = (fields.get("replicas") or {}) | {"gpus": gpus}
    settings = parse_config(fields, str(config or "the options"))
    if settings.anonymizer_spec.neural:
        check_weights(settings)
    return settings


def check_weights(settings: "ServeConfig") -> None:
    """Raise ConfigError where the model or the voice bank cannot be used: a replica would say so much later."""
    from models.registry import WeightsChanged, WeightsMissing
    from pipelines import anonymize
    from serve.config import ConfigError

    try:
        anonymize.check_weights(settings.anonymizer_spec)
    except (OSError, ValueError, WeightsMissing, WeightsChanged) as fault:
        raise ConfigError(str(fault)) from None


def is_free(host: str, port: int) -> bool:
    """Return whether this machine could listen on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
