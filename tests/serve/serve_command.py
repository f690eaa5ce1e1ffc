"""`voxveil serve` as a user runs it, for tests; on demand without privileges."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.serve_ray import free_port

ROOT = Path(__file__).parents[2]
NOBODY = 65_534
READY_WITHIN = 900.0  # seconds: a busy machine starts Ray slowly


class Command:
    """`voxveil serve` running as a child, with a folder of its own for its configuration and its temporary files."""

    def __init__(self, config: dict[str, Any], *options: str, folder: Path, unprivileged: bool = False) -> None:
        self.port = free_port()
        (folder / "serve.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "pipelines", "serve", "--config", str(folder / "serve.yaml")]
        command += ["--port", str(self.port), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if unprivileged:
            environment |= {"HOME": "/nonexistent", "TMPDIR": str(folder)}
            command = without_privileges(command, folder)
        self.log = folder / "serve.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=ROOT, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + READY_WITHIN
        while "Ready" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "not ready in time"
            time.sleep(0.2)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    def get(self, path: str) -> str:
        """What the server answers to a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=120) as answer:
            return str(answer.read().decode())

    def sessions(self) -> dict[str, int]:
        """Sessions by replica, as Prometheus would see them."""
        found = re.findall(r'voxveil_sessions\{replica="(\w+)"\} (\S+)', self.get("/metrics"))
        return {name: int(float(count)) for name, count in found}

    def replicas(self) -> list[int]:
        """The process ids of the replicas."""
        return self.descendants("ServeReplica:voxveil:Replica")

    def ray_environment(self) -> dict[str, str]:
        """The environment in which a process of this machine joins this command's Ray."""
        (raylet,) = self.descendants("/raylet\0")
        address = re.search(r"gcs-address=([^\s\0]+)|$", Path(f"/proc/{raylet}/cmdline").read_text())
        pairs = (pair.partition("=") for pair in Path(f"/proc/{raylet}/environ").read_text().split("\0"))
        ours = {name: value for name, _, value in pairs if name.startswith(("RAY_AUTH_", "RAY_SERVE_"))}
        return os.environ | ours | {"RAY_ADDRESS": address[1], "PYTHONPATH": str(ROOT)}

    def descendants(self, called: str) -> list[int]:
        """The process ids of this command's descendants whose command line holds `called`."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue

        def ours(process: int) -> bool:
            while process in parents:
                process = parents[process]
                if process == self.process.pid:
                    return True
            return False

        def name(process: int) -> str:
            try:
                return Path(f"/proc/{process}/cmdline").read_text()
            except OSError:
                return ""

        return [process for process in parents if called in name(process) and ours(process)]

    def stop(self) -> None:
        """Stop it as a user would, and for good where that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


def short_folder() -> Path:
    """A new folder that everybody may use, with a path short enough for the sockets that Ray puts below it."""
    folder = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    folder.chmod(0o777)
    return folder


def without_privileges(command: list[str], folder: Path) -> list[str]:
    """Return the command as nobody would run it where the file system cannot be written to, but for `folder`.

    Whoever is not root runs it as they are. Root needs a mount namespace, in which the way to the interpreter is open.
    """
    if os.geteuid() != 0:
        return command
    if not shutil.which("setpriv") or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs setpriv and the right to make a mount namespace, or tests that do not run as root")
    lines = ["set -e", "mount --make-rprivate /", f"mount --bind {folder} {folder}"]
    interpreter = Path(sys.base_prefix)
    closed = [parent for parent in interpreter.parents if not parent.stat().st_mode & 0o001]
    if closed:
        lines += [
            f"mkdir {folder}/python",
            f"mount --bind {interpreter} {folder}/python",
            f"mount -t tmpfs -o mode=755 tmpfs {closed[-1]}",
            f"mkdir -p {interpreter}",
            f"mount --bind {folder}/python {interpreter}",
        ]
    lines += [
        "mount -o remount,bind,ro /",
        f"exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs {shlex.join(command)}",
    ]
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines)]
