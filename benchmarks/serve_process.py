"""The service of `benchmarks.serve`: a child process, what it uses, and what Prometheus sees of it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import yaml

from pipelines.serve_ray import free_port

LATENCY_BUCKET = "voxveil_latency_seconds_bucket:"


class Server:
    """`voxveil serve` as a child process, with the processes that it starts."""

    def __init__(self, config: dict[str, object]) -> None:
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="voxveil-bench-")
        path = Path(self.folder.name) / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "serve", "--config", str(path), "--port", str(self.port)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Ready" in line:
                return
        raise RuntimeError("the service did not start")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    def usage(self) -> tuple[float, dict[str, float]]:
        """Return the CPU seconds that all its processes have used, and the resident MiB of replicas, proxy and all."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        family, queue = [], [self.process.pid]
        while queue:
            family.append(queue.pop())
            queue += children.get(family[-1], [])
        cpu, memory = 0.0, {"replica": 0.0, "proxy": 0.0, "all": 0.0}
        for process in family:
            try:
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                name = Path(f"/proc/{process}/cmdline").read_text()
                resident = int(re.findall(r"Pss:\s+(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text())[0]) / 1024
            except (OSError, IndexError):
                continue
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            memory["all"] += resident
            memory["replica"] += resident * ("ServeReplica:voxveil:Replica" in name)
            memory["proxy"] += resident * ("ProxyActor" in name or "haproxy" in name)
        return cpu, memory

    def metrics(self) -> dict[str, float]:
        """Return the service's Prometheus figures, summed over all replicas and labels but a bucket's bound."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        totals: dict[str, float] = {}
        for name, labels, value in re.findall(r"^(voxveil_\w+)\{(.*)\} (\S+)$", text, re.M):
            bound = re.findall(r'le="([^"]+)"', labels)
            key = f"{name}:{bound[0]}" if bound else name
            totals[key] = totals.get(key, 0.0) + float(value)
        return totals

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.folder.cleanup()


def histogram_quantile(used: dict[str, float], quantile: float) -> tuple[float, float]:
    """Return the bounds (seconds) of the latency bucket that holds the quantile, as Prometheus would find it."""
    buckets = sorted((float(key.partition(":")[2]), n) for key, n in used.items() if key.startswith(LATENCY_BUCKET))
    rank, below = quantile * buckets[-1][1], 0.0
    for bound, count in buckets:
        if count >= rank:
            return below, bound
        below = bound
    return below, float("inf")
