"""How many calls the live service carries, and how late it answers them.

`python -m benchmarks.serve` starts the service as `voxveil serve` does, opens N paced sessions over loopback for
each N, and prints a line a N. `--soak 900` keeps N sessions for so many seconds while calls open and close, and
prints memory, slots and starved sessions as it goes. `--url` measures a server that runs already, without its CPU
and memory.

Latency is sample in to sample out at the client: the time from the moment a sample is spoken (a microphone hands over
20 ms at a time) to the arrival of the message with its anonymous counterpart, taken at the oldest sample of each
message. That sample k of the output is sample k of the input is checked by cross-correlating the two envelopes; the
printed lag is added to the latency. A deadline miss is a message later than 180 ms.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import yaml
from numpy.typing import NDArray

from serve.client import Connection, Lost, Refused

SAMPLE_RATE = 16_000
CHUNK = 320  # samples, 20 ms
BUDGET = 0.180  # seconds
SETTLE = 2.0  # seconds after a session's start that count for nothing: connecting is not the steady state
ENVELOPE = 80  # samples, 5 ms

Wave = NDArray[np.float32]


@dataclass
class Call:
    """What one session saw: when each message came, how late its oldest sample was, and how many samples came back."""

    latencies: list[float] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    lag: float = 0.0
    fault: str = ""


def speech(seconds: float) -> Wave:
    """Return speech at 16 kHz: LibriSpeech where the machine has it, else pulses with a moving pitch and pauses."""
    folder = Path(os.environ.get("VOXVEIL_SPEECH", "../shared/speech")) / "librispeech-test-other" / "audio"
    parts, count = [], 0
    for path in sorted(folder.glob("*.flac"))[:20]:
        parts.append(soundfile.read(path, dtype="float32")[0])
        count += len(parts[-1])
    if not parts:
        time_axis = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        phase = np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * time_axis)) / SAMPLE_RATE
        talking = (np.sin(2 * np.pi * 0.4 * time_axis) > -0.5) * np.abs(np.sin(2 * np.pi * 2.5 * time_axis))
        parts = [(0.3 * np.exp(-12 * (phase % 1)) * talking).astype(np.float32)]
    whole = np.concatenate(parts)
    return np.tile(whole, 1 + int(seconds * SAMPLE_RATE) // len(whole))


async def hold_call(url: str, token: str, wave: Wave, seconds: float, call: Call) -> None:
    """Speak the wave for `seconds` at the pace of a microphone, and note how late each answer is."""
    returned: list[Wave] = []
    try:
        async with Connection(url, SAMPLE_RATE, token) as connection:
            began = time.monotonic()

            async def send() -> None:
                for start in range(0, int(seconds * SAMPLE_RATE), CHUNK):
                    await asyncio.sleep(max(0.0, began + (start + CHUNK) / SAMPLE_RATE - time.monotonic()))
                    await connection.send(wave[start : start + CHUNK])
                    call.sent += CHUNK
                await connection.end()

            sender = asyncio.create_task(send())
            try:
                while (received := await connection.receive()) is not None:
                    assert not isinstance(received, dict)
                    spoken = began + call.received / SAMPLE_RATE
                    now = time.monotonic()
                    if now - began > SETTLE:
                        call.latencies.append(now - spoken)
                    call.received += len(received)
                    returned.append(received)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
    except (Lost, Refused) as fault:
        call.fault = str(fault)
    if returned:
        call.lag = envelope_lag(wave[: call.received], np.concatenate(returned))


def envelope_lag(source: Wave, output: Wave) -> float:
    """Return by how many seconds the output's envelope lies behind the source's, at best correlation within 0.25 s."""
    envelopes = []
    for wave in (source, output):
        frames = wave[: len(wave) // ENVELOPE * ENVELOPE].reshape(-1, ENVELOPE)
        envelope = np.sqrt(np.square(frames).mean(axis=1))
        envelopes.append(envelope - envelope.mean())
    reach = 50
    inner = slice(reach, len(envelopes[0]) - reach)
    scores = [float(envelopes[0][inner] @ np.roll(envelopes[1], -shift)[inner]) for shift in range(-reach, reach + 1)]
    return (int(np.argmax(scores)) - reach) * ENVELOPE / SAMPLE_RATE


class Server:
    """`voxveil serve` as a child process, with the processes that it starts."""

    def __init__(self, config: dict[str, object]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory(prefix="voxveil-bench-")
        path = Path(self.folder.name) / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        command = "import typer; from pipelines.serve import serve; typer.run(serve)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, "--config", str(path), "--port", str(self.port)],
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
        """Return the unlabelled sums of the service's Prometheus figures, over all replicas."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        totals: dict[str, float] = {}
        for name, labels, value in re.findall(r"^(voxveil_\w+)\{(.*)\} (\S+)$", text, re.M):
            if "le=" not in labels:
                totals[name] = totals.get(name, 0.0) + float(value)
        return totals

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.folder.cleanup()


def missed(late: list[float]) -> str:
    """Return the share of messages that came later than the budget."""
    return f"{np.mean(np.array(late) > BUDGET):>7.2%}" if late else f"{'-':>7}"


def quantiles(values: list[float]) -> str:
    """Return p50, p95 and p99 in milliseconds."""
    if not values:
        return f"{'-':>6} {'-':>6} {'-':>6}"
    return " ".join(f"{1e3 * value:6.0f}" for value in np.percentile(values, [50, 95, 99]))


async def measure(url: str, token: str, sessions: int, seconds: float) -> list[Call]:
    """Hold `sessions` calls at once, begun within a second of each other."""
    wave = speech(seconds + 60)
    calls = [Call() for _ in range(sessions)]

    async def one(index: int) -> None:
        await asyncio.sleep(index / sessions)
        offset = (index * 7919 * CHUNK) % (60 * SAMPLE_RATE)
        await hold_call(url, token, wave[offset:], seconds, calls[index])

    await asyncio.gather(*(one(index) for index in range(sessions)))
    return calls


def print_table(server: Server | None, url: str, token: str, counts: list[int], seconds: float) -> None:
    """Print a line for each number of sessions."""
    print(f"load average before: {os.getloadavg()[0]:.1f}; {len(os.sched_getaffinity(0))} cores; {seconds:g} s each")
    print(
        "sessions    p50    p95    p99  misses  steps late  lag  faults  server CPU"
        "  client CPU   RTF  replica  all, MiB"
    )
    for count in counts:
        cpu, before = (server.usage()[0], server.metrics()) if server else (0.0, {})
        client_cpu, began = time.process_time(), time.monotonic()
        calls = asyncio.run(measure(url, token, count, seconds))
        took = time.monotonic() - began
        lags = [call.lag for call in calls if call.received]
        lag = max(lags, key=abs, default=0.0)
        late = [latency + max(0.0, lag) for call in calls for latency in call.latencies]
        faults = sum(bool(call.fault) or call.received != call.sent for call in calls)
        line = f"{count:>8} {quantiles(late)} {missed(late)}"
        if server:
            after, memory = server.metrics(), server.usage()[1]
            used = {name: value - before.get(name, 0.0) for name, value in after.items()}
            factor = used["voxveil_step_seconds_sum"] / max(used["voxveil_audio_seconds_total"], 1e-9)
            line += (
                f" {used['voxveil_deadline_misses_total']:>5.0f}/{used['voxveil_step_seconds_count']:<5.0f}"
                f" {1e3 * lag:>3.0f} {faults:>7} {(server.usage()[0] - cpu) / took:>11.2f}"
                f" {(time.process_time() - client_cpu) / took:>11.2f} {factor:>5.3f}"
                f" {memory['replica']:>8.0f} {memory['all']:>9.0f}"
            )
        else:
            line += (
                f" {'':>11} {1e3 * lag:>3.0f} {faults:>7} {'':>11} {(time.process_time() - client_cpu) / took:>11.2f}"
            )
        print(line, flush=True)
        for fault in sorted({call.fault for call in calls if call.fault})[:3]:
            print(f"         {fault}")


async def soak(server: Server, url: str, token: str, sessions: int, seconds: float) -> None:
    """Keep `sessions` calls for `seconds`, each 3 to 30 s long, and print what the service holds every 30 s."""
    wave = speech(90)
    generator = np.random.default_rng(0)
    ends = time.monotonic() + seconds
    finished: list[Call] = []

    async def line(index: int) -> None:
        await asyncio.sleep(index / sessions)
        while time.monotonic() < ends:
            call = Call()
            offset = int(generator.integers(0, 60)) * SAMPLE_RATE
            await hold_call(url, token, wave[offset:], float(generator.uniform(3, 30)), call)
            finished.append(call)
            if call.fault:
                await asyncio.sleep(0.5)

    async def watch() -> None:
        print(
            "     s    p50    p95    p99  misses  calls  starved  faults  slots held  replica  proxy  all, MiB",
            flush=True,
        )
        seen = 0
        while True:
            await asyncio.sleep(30)
            memory = (await asyncio.to_thread(server.usage))[1]
            held = (await asyncio.to_thread(server.metrics))["voxveil_sessions"]
            fresh, seen = finished[seen:], len(finished)
            late = [latency for call in fresh for latency in call.latencies]
            starved = sum(call.received != call.sent and not call.fault for call in fresh)
            print(
                f"{seconds - (ends - time.monotonic()):>6.0f} {quantiles(late)} {missed(late)}"
                f" {len(fresh):>6} {starved:>8} {sum(bool(call.fault) for call in fresh):>7} {held:>11.0f}"
                f" {memory['replica']:>8.0f} {memory['proxy']:>6.0f} {memory['all']:>9.0f}",
                flush=True,
            )

    print(f"load average before: {os.getloadavg()[0]:.1f}; {sessions} sessions with churn for {seconds:g} s")
    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(line(index) for index in range(sessions)))
    watcher.cancel()
    await asyncio.sleep(2)
    totals = server.metrics()
    late = [latency for call in finished for latency in call.latencies]
    print(f"all: {quantiles(late)} ms, misses {missed(late).strip()}, {len(finished)} calls;", end=" ")
    print(
        f"opened {totals['voxveil_sessions_opened_total']:.0f}, closed {totals['voxveil_sessions_closed_total']:.0f},",
        end=" ",
    )
    print(f"slots still held {totals['voxveil_sessions']:.0f}")
    for fault in sorted({call.fault for call in finished if call.fault})[:5]:
        print(f"fault: {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 16, 32, 48])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--tick", type=float, default=None, help="seconds between two steps")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--anonymizer", default="mcadams")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--token", default=os.environ.get("VOXVEIL_TOKEN", ""))
    arguments = parser.parse_args()
    if arguments.url:
        print_table(None, arguments.url, arguments.token, arguments.sessions, arguments.seconds)
        return
    slots = -(-max(arguments.sessions) // arguments.replicas) + 4
    config: dict[str, object] = {
        "anonymizer": arguments.anonymizer,
        "slots": slots,
        "replicas": {"minimum": arguments.replicas, "maximum": arguments.replicas},
    }
    if arguments.tick:
        config["tick_seconds"] = arguments.tick
    server = Server(config)
    try:
        if arguments.soak:
            asyncio.run(soak(server, server.url, arguments.token, max(arguments.sessions), arguments.soak))
        else:
            print_table(server, server.url, arguments.token, arguments.sessions, arguments.seconds)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
