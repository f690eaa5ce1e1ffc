"""`voxveil serve`: the live service on this machine, or joined to the cluster of RAY_ADDRESS."""

import csv
import io
import os
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OBJECT_STORE_BYTES = 128 << 20  # audio never goes through it
CPUS_BESIDE = 3  # Serve's controller and proxy take fractions that are never spent together
ROUTES_WITHIN = 60.0  # seconds
SERVER = "2"  # the type of a server's row in HAProxy's statistics

console = Console(stderr=True, highlight=False)


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file; docs/streaming.md lists its fields.", dir_okay=False)
    ] = None,
    anonymizer: Annotated[str | None, typer.Option(help="Overrides the file's anonymizer.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 8000,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Print a fresh token with its hash, and stop.")
    ] = False,
) -> None:
    """Talk and be anonymous: serve live streams, files and the web page.

    Says when it is ready; Ctrl-C (or SIGTERM) drains the calls and stops.
    """
    from serve.config import ConfigError, ServeConfig, read_config
    from serve.tokens import new_token as make_token

    if new_token:
        token, digest = make_token()
        typer.echo(f"token   {token}\nsha256  {digest}")
        console.print("Give the first to its owner; put the second into the configuration. It is not shown again.")
        return
    try:
        settings = read_config(config) if config is not None else ServeConfig()
        if anonymizer is not None:
            from models.catalogue import ANONYMIZERS

            if anonymizer not in ANONYMIZERS:
                raise ConfigError(f"no anonymizer is called {anonymizer!r}; there are {', '.join(ANONYMIZERS)}")
            settings = settings.model_copy(update={"anonymizer": anonymizer})
        if host not in LOOPBACK and not settings.tokens and not settings.open:
            raise ConfigError(
                f"listening on {host} without tokens would let anybody in: add tokens (voxveil serve --new-token), "
                "or `open: true` if something in front keeps strangers out"
            )
        if not is_free(host, port):
            raise ConfigError(f"cannot listen on {host}:{port}; is another server there? --port takes another one")
    except ConfigError as fault:
        console.print(f"[bold red]voxveil:[/] {fault}", markup=True, soft_wrap=True)
        raise typer.Exit(2) from None
    _run(settings.model_dump(mode="json"), host, port)


def _run(settings: dict[str, Any], host: str, port: int) -> None:
    """Start Ray, or join it; serve until told to stop; drain and stop."""
    with tempfile.TemporaryDirectory(prefix="voxveil-serve-") as folder:
        prepare_environment(settings, folder)
        import logging

        import ray
        from ray import serve as ray_serve
        from ray.serve.schema import LoggingConfig

        from serve.app import build

        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with console.status("Starting…"):
            if os.environ.get("RAY_ADDRESS"):
                ray.init(logging_level=logging.ERROR, log_to_driver=False)
            else:
                cores = len(os.sched_getaffinity(0))
                ray.init(
                    num_cpus=cores + CPUS_BESIDE,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            # Access logs name clients and times; who speaks when is nobody's business.
            quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
            ray_serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
            ray_serve.run(build(settings), name="voxveil", route_prefix="/", logging_config=quiet)
            wait_for_routes(Path(folder), settings["replicas"]["minimum"])
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which takes the signals for itself
            signal.signal(number, lambda *_: stopped.set())
        name = f"[{host}]" if ":" in host else ("localhost" if host == "127.0.0.1" else host)
        console.print(f"Ready: open http://{name}:{port}/ or stream to ws://{name}:{port}/v1/stream", markup=False)
        stopped.wait()
        console.print("Draining…")
        ray_serve.delete("voxveil")  # first the replicas, which end their calls; then what stands before them
        ray_serve.shutdown()
        ray.shutdown()
        console.print("Stopped.")


def prepare_environment(settings: dict[str, Any], folder: str) -> None:
    """Set what Ray reads when it is imported and started; what the environment says already stands.

    Serve's Python proxy hands every message on by an actor call and holds about ten calls a core; HAProxy, which comes
    with Ray, passes bytes to the replica's own port, and its back-pressure too. After a change of replicas HAProxy
    keeps its old process for the calls that it carries, as long as a call may last.
    """
    session_seconds = int(settings["limits"]["session_seconds"])
    ours = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_worker_niceness": "0",  # Ray would let everything else on the machine go first
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine is slow to start it, and it must not be killed
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        # Serve cuts all WebSockets after this time; by then the replica has ended its calls in good order.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(settings["drain_seconds"] + 2.0),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(session_seconds + 60),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(session_seconds + 60),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }
    for name, value in ours.items():
        os.environ.setdefault(name, value)


def wait_for_routes(folder: Path, replicas: int) -> None:
    """Wait until the HAProxy of this machine sends calls to so many replicas; raises TimeoutError.

    Serve says that it runs when the replicas do, and tells its HAProxy of them a moment later, one after the other:
    the first calls would all go to the first replica. Return at once where HAProxy has no socket in `folder`, because
    it belongs to a cluster that was joined or is switched off.
    """
    deadline = time.monotonic() + ROUTES_WITHIN
    for admin in folder.glob("*/admin.sock"):
        while (routed := routed_replicas(admin)) < replicas:
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {ROUTES_WITHIN:.0f} s calls reach {routed} of {replicas} replicas")
            time.sleep(0.1)


def routed_replicas(admin: Path) -> int:
    """Return how many replicas HAProxy's admin socket lists as up; 0 while nobody answers there."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(5.0)
            asked.connect(str(admin))
            asked.sendall(b"show stat\n")
            while part := asked.recv(1 << 16):
                answer += part
    except OSError:
        return 0
    rows = csv.DictReader(io.StringIO(answer.decode().removeprefix("# ")))
    return sum(row["type"] == SERVER and row["status"] == "UP" and row["bck"] == "0" for row in rows)


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


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
