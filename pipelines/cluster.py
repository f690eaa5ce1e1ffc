"""Ray, started or joined: one machine by default, a cluster by RAY_ADDRESS.

A pass is one Ray Data pipeline whose last operator writes; the driver sees receipts alone, so that its memory does not
grow with the corpus. Blocks are cut to a few rows, because audio is big.
"""

import logging
import os
import secrets
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from operators.schema import InputError

if TYPE_CHECKING:
    import ray.data

    from operators.chain import Step
    from pipelines.progress import Track

ROWS_PER_BATCH = 8
OBJECT_STORE_BYTES = 1 << 30
START_ATTEMPTS = 4
CONNECT_WITHIN = 10.0  # seconds


class ClusterUnreachable(RuntimeError):
    """The cluster of RAY_ADDRESS does not answer or lets this user not in, or Ray does not start on this machine."""


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start Ray on this machine and stop it at the end."""
    quieten_and_lock_ray()
    import ray
    import ray.data

    started = not ray.is_initialized()
    # 0700: Ray opens its own folder, below this one, to everybody.
    with tempfile.TemporaryDirectory(prefix="voxveil-", ignore_cleanup_errors=True) as folder:
        if started:
            logging.getLogger("ray").setLevel(logging.ERROR)
            if os.environ.get("RAY_ADDRESS"):
                _join_ray(os.environ["RAY_ADDRESS"])
            else:
                # One CPU more than there are: reading and cutting tables mostly waits, and must not wait for an actor.
                cores = len(os.sched_getaffinity(0))
                start_ray(cores + 1, f"{folder}/ray", OBJECT_STORE_BYTES)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"ray\.data")  # hints on concurrency, wrong for a pass of few rows
        try:
            yield
        finally:
            if started:
                ray.shutdown()


def _join_ray(address: str) -> None:
    """Join a running cluster; raises ClusterUnreachable."""
    import ray

    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_WITHIN).close()  # Ray would try for minutes
        with _silent_stderr():
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ray.exceptions.AuthenticationError) as fault:
        raise ClusterUnreachable(
            f"the Ray cluster of RAY_ADDRESS={address} does not answer; is it up? One that was started with tokens "
            "also wants RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN or ~/.ray/auth_token. Nothing was run"
        ) from fault


def quieten_and_lock_ray() -> None:
    """Set what Ray reads once, when it is imported: say little, and let nobody without a token in."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Of the processes, a second of computing each, that read the footers of a pass's Parquet files, Ray would start 32.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    if not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def start_ray(cpus: int, folder: str, object_store_bytes: int) -> None:
    """Start Ray for this process alone: on the loopback, with a token, in a folder that nobody else may enter.

    Whoever reaches a Ray cluster can run code in it, and this one holds speech and a key. Ray gives up starting after
    30 s, which a busy machine may need more than once. Raises ClusterUnreachable where it gave up every time.
    """
    import ray

    for _ in range(START_ATTEMPTS):
        try:
            with _silent_stderr():
                ray.init(
                    num_cpus=cpus,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=folder,
                    include_dashboard=False,
                    object_store_memory=object_store_bytes,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            return
        except Exception as fault:
            ray.shutdown()
            if "timed out" not in str(fault):
                raise
    raise ClusterUnreachable(
        f"Ray did not start on this machine within {START_ATTEMPTS} times its 30 s: is it busy with other work? "
        "Nothing was run; the same command can be repeated, with --resume where it had begun before"
    )


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Close the mouth of Ray's native code while it starts: it announces its own log level. Errors are raised."""
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def run_pass(
    dataset: "ray.data.Dataset",
    rows: int,
    steps: "list[Step]",
    workers: int | None,
    gpus: float,
    track: "Track",
    description: str,
) -> tuple[int, int]:
    """Drive `dataset` through `steps` in a pool of 1 to `workers` actors; return (rows written, rows with a reason).

    There are about `rows` rows: no more actors are started than there are batches, since each takes seconds. The last
    step must be WriteParts. Actors that die are replaced and their batches done again.
    """
    import ray
    from ray.data import ActorPoolStrategy

    from operators.chain import Chain

    # A cluster that is joined may start machines with GPUs when they are asked for; this one has what it has.
    if not os.environ.get("RAY_ADDRESS") and gpus > ray.cluster_resources().get("GPU", 0.0):
        raise InputError(
            f"--gpus {gpus:g} asks for more than the {ray.cluster_resources().get('GPU', 0):g} that are here"
        )
    most = max(1, int(ray.cluster_resources().get("CPU", 2)) - 1)
    most = min(most, workers or most, max(1, -(-rows // ROWS_PER_BATCH)))
    receipts = dataset.repartition(target_num_rows_per_block=ROWS_PER_BATCH).map_batches(
        Chain,
        fn_constructor_kwargs={"steps": steps},
        batch_size=ROWS_PER_BATCH,
        batch_format="numpy",
        zero_copy_batch=False,
        compute=ActorPoolStrategy(min_size=min(2, most), max_size=most),
        num_cpus=1,
        num_gpus=gpus or None,
    )
    written = unusable = 0
    for batch in receipts.iter_batches(batch_size=None):
        written += int(batch["rows"].sum())
        unusable += int(batch["unusable"].sum())
        track.advance(description, int(batch["rows"].sum()))
    return written, unusable
