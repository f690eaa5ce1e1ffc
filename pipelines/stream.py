"""`voxveil stream`: send a recording to the live service as a call would, and keep what comes back."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True, highlight=False)
WRITTEN = (".wav", ".flac")


def stream(
    source: Annotated[Path, typer.Argument(help="A recording that libsndfile reads.", exists=True, dir_okay=False)],
    target: Annotated[Path, typer.Argument(help="Where the anonymous recording goes (WAV or FLAC).", dir_okay=False)],
    url: Annotated[str, typer.Option(help="ws:// or wss://")] = "ws://127.0.0.1:8000/v1/stream",
    token: Annotated[str, typer.Option(envvar="VOXVEIL_TOKEN", help="Better in the environment than here.")] = "",
    voice: Annotated[str | None, typer.Option(help="A voice of the server's bank; random without.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The seed of a voice, to get the same one again.")] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="At the pace of a microphone.")] = False,
) -> None:
    """Send a file as a live call would, write what comes back, print the latency."""
    import asyncio
    import time

    import numpy as np
    import soundfile

    from serve.client import Lost, Refused, stream_wave

    if voice is not None and seed is not None:
        _stop("ask for a voice or for a seed, not both", 2)
    if target.suffix.lower() not in WRITTEN:
        _stop(f"{target}: the anonymous recording is written as {' or '.join(WRITTEN)}", 2)
    if not target.parent.is_dir():
        _stop(f"{target}: there is no folder {target.parent}", 2)
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as fault:
        _stop(f"{source}: {fault}", 2)
    if not 8_000 <= rate <= 96_000 or len(samples) == 0:
        _stop(f"{source}: {len(samples)} samples at {rate} Hz; wanted are some, at 8 to 96 kHz", 2)
    wanted = {"kind": "named", "name": voice} if voice else {"kind": "seed", "seed": seed} if seed is not None else None
    began = time.monotonic()
    try:
        report = asyncio.run(
            stream_wave(samples.mean(axis=1), rate, url, token, wanted, realtime, say=lambda line: console.print(line))
        )
    except (Refused, Lost) as fault:
        _stop(str(fault), 2 if isinstance(fault, Refused) and not fault.retry else 1)
    took = time.monotonic() - began
    try:
        soundfile.write(target, report.wave, rate, subtype="PCM_16")
    except (soundfile.LibsndfileError, OSError) as fault:
        _stop(f"{target}: {fault}", 1)
    seconds = len(samples) / rate
    p50, p95, p99 = 1e3 * np.percentile(report.latencies, [50, 95, 99]) if report.latencies else (0.0, 0.0, 0.0)
    typer.echo(f"{seconds:.2f} s of audio in {took:.2f} s ({seconds / took:.2f} times real time)")
    typer.echo(f"latency of a 20 ms chunk: p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms")
    typer.echo(f"of which {report.algorithmic_latency_ms:.0f} ms at most belong to the method, not the machine")
    if report.attempts > 1:
        typer.echo(f"the connection was lost and taken up again {report.attempts - 1} times")


def _stop(message: str, code: int) -> None:
    console.print(f"voxveil: {message}", style="bold red", markup=False, soft_wrap=True)
    raise typer.Exit(code)
