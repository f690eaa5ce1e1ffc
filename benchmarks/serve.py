"""How many calls the live service carries, and how late it answers them.

`python -m benchmarks.serve` starts the service as `voxveil serve` does, opens N paced sessions over loopback for
each N, and prints a line a N (`--repeat 5`: five of them). `--soak 900` keeps N sessions for so many seconds while
calls open and close, and prints memory, slots and starved sessions as it goes. Both end with what Prometheus saw of
the same calls, and with exit code 1 where it disagrees, a call failed or a slot leaked. `--url` measures a server that
runs already, without its CPU and memory; the exit code is 1 where a call failed.

Latency is sample in to sample out at the client: the time from the moment a sample is spoken (a microphone hands over
20 ms at a time) to the arrival of the message with its anonymous counterpart, taken at the oldest sample of each
message. That sample k of the output is sample k of the input is checked by cross-correlating the two envelopes; the
printed lag is added to the latency. A deadline miss is a message later than 180 ms.
"""

import argparse
import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.serve_process import Server, histogram_quantile
from serve.client import Connection, Lost, Refused

SAMPLE_RATE = 16_000
CHUNK = 320  # samples, 20 ms
BUDGET = 0.180  # seconds
SETTLE = 2.0  # seconds after a session's start that count for nothing: connecting is not the steady state
REPORTED = 1.5  # seconds after which every replica has told its figures
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


def agree(used: dict[str, float], calls: list["Call"], sound: bool) -> bool:
    """Print what Prometheus saw of these calls beside what the clients saw; return whether the two agree.

    Calls and seconds of audio are counted by both. The latencies differ by what they include: the server's ends where
    it hands over to the network and begins with a message's arrival, the client's begins 20 ms before that.
    """
    answered = sum(call.received for call in calls) / SAMPLE_RATE
    counted = used["voxveil_audio_seconds_total"]
    opened, closed = used["voxveil_sessions_opened_total"], used["voxveil_sessions_closed_total"]
    late = [latency for call in calls for latency in call.latencies]
    bounds = [histogram_quantile(used, quantile) for quantile in (0.5, 0.95, 0.99)]
    seen = np.percentile(late, [50, 95, 99]) if late else np.zeros(3)
    same = not sound or (opened == closed == len(calls) and abs(counted - answered) <= 1e-3 * answered + 0.1)
    # The client's figure holds the server's and at least the network: it cannot be below the bucket's lower bound.
    possible = all(low <= value for (low, _), value in zip(bounds, seen, strict=True))
    within = ", ".join(f"{1e3 * low:.0f} to {1e3 * high:.0f}" for low, high in bounds)
    verdict = "agrees" if same and possible else "DISAGREES"
    print(
        f"  Prometheus {verdict}: {opened:.0f} calls opened, {closed:.0f} closed (clients {len(calls)}),"
        f" {counted:.1f} s of audio (clients {answered:.1f}), p50, p95, p99 at the server {within} ms",
        flush=True,
    )
    return same and possible


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


def print_table(server: Server | None, url: str, token: str, counts: list[int], seconds: float) -> bool:
    """Print a line for each number of sessions; return whether all went well."""
    well = True
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
            spent, memory = server.usage()
            time.sleep(REPORTED)
            after = server.metrics()
            used = {name: value - before.get(name, 0.0) for name, value in after.items()}
            factor = used["voxveil_step_seconds_sum"] / max(used["voxveil_audio_seconds_total"], 1e-9)
            line += (
                f" {used['voxveil_deadline_misses_total']:>5.0f}/{used['voxveil_step_seconds_count']:<5.0f}"
                f" {1e3 * lag:>3.0f} {faults:>7} {(spent - cpu) / took:>11.2f}"
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
        well &= not faults
        if server:
            well &= agree(used, calls, sound=not faults)
    return well


async def soak(server: Server, url: str, token: str, sessions: int, seconds: float) -> bool:
    """Keep `sessions` calls for `seconds`, each 3 to 30 s long, and print what the service holds every 30 s.

    Return whether no slot leaked, nobody starved and Prometheus agrees.
    """
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
    cpu, before = server.usage()[0], server.metrics()
    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(line(index) for index in range(sessions)))
    watcher.cancel()
    await asyncio.sleep(REPORTED)
    totals = server.metrics()
    late = [latency for call in finished for latency in call.latencies]
    print(f"all: {quantiles(late)} ms, misses {missed(late).strip()}, {len(finished)} calls;", end=" ")
    print(
        f"opened {totals['voxveil_sessions_opened_total']:.0f}, closed {totals['voxveil_sessions_closed_total']:.0f},",
        end=" ",
    )
    used = {name: value - before.get(name, 0.0) for name, value in totals.items()}
    factor = used["voxveil_step_seconds_sum"] / max(used["voxveil_audio_seconds_total"], 1e-9)
    spent = ((await asyncio.to_thread(server.usage))[0] - cpu) / seconds
    print(f"slots still held {totals['voxveil_sessions']:.0f}, RTF {factor:.3f}, server CPU {spent:.2f}")
    for fault in sorted({call.fault for call in finished if call.fault})[:5]:
        print(f"fault: {fault}")
    faults = sum(bool(call.fault) for call in finished)
    starved = sum(call.received != call.sent and not call.fault for call in finished)
    return agree(used, finished, sound=not faults) and not (faults or starved or totals["voxveil_sessions"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 16, 32, 48])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeat", type=int, default=1, help="measure each number of sessions so many times")
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--tick", type=float, default=None, help="seconds between two steps")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--anonymizer", default="mcadams")
    parser.add_argument("--model", help="streamvoiceanon's, as for `voxveil serve`")
    parser.add_argument("--voices", help="streamvoiceanon's bank")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs for each replica")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--token", default=os.environ.get("VOXVEIL_TOKEN", ""))
    arguments = parser.parse_args()
    if arguments.url:
        counts = arguments.sessions * arguments.repeat
        raise SystemExit(0 if print_table(None, arguments.url, arguments.token, counts, arguments.seconds) else 1)
    slots = -(-max(arguments.sessions) // arguments.replicas) + 4
    config: dict[str, object] = {
        "anonymizer": arguments.anonymizer,
        "slots": slots,
        "replicas": {"minimum": arguments.replicas, "maximum": arguments.replicas, "gpus": arguments.gpus},
    }
    for name in ("model", "voices"):
        if getattr(arguments, name):
            config[name] = str(Path(getattr(arguments, name)).resolve())
    if arguments.tick:
        config["tick_seconds"] = arguments.tick
    server = Server(config)
    try:
        if arguments.soak:
            well = asyncio.run(soak(server, server.url, arguments.token, max(arguments.sessions), arguments.soak))
        else:
            counts = arguments.sessions * arguments.repeat
            well = print_table(server, server.url, arguments.token, counts, arguments.seconds)
    finally:
        server.stop()
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
