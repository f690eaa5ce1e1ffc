"""A live service in this process, for tests: the web application under uvicorn in a thread of its own, without Ray."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import uvicorn
from numpy.typing import NDArray

from serve.config import parse_config
from serve.service import Service
from serve.web import build_web

Wave = NDArray[np.float32]
SPEECH = Path(os.environ.get("VOXVEIL_SPEECH", Path(__file__).parents[3] / "shared" / "speech"))


class LiveServer:
    """Where the service listens, and the service itself."""

    def __init__(self, service: Service, listener: Any) -> None:
        self.service = service
        self.listener = listener
        port = listener.getsockname()[1]
        self.http = f"http://127.0.0.1:{port}"
        self.stream = f"ws://127.0.0.1:{port}/v1/stream"


@contextmanager
def live_server(stand_in: Any = None, **config: Any) -> Iterator[LiveServer]:
    """Run the service with `config` on a free port until the block ends; `stand_in` takes its anonymizer's place.

    The anonymizer is `mcadams` where none is named: it loads in no time.
    """
    config = {"anonymizer": "mcadams"} | config
    holder: dict[str, Any] = {}
    started = threading.Event()

    def run() -> None:
        async def main() -> None:
            service = Service(parse_config(config), anonymizer=stand_in)
            server = uvicorn.Server(
                uvicorn.Config(build_web(service), port=0, log_level="error", timeout_graceful_shutdown=1)
            )
            holder.update(server=server, service=service)
            task = asyncio.create_task(server.serve())
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
            if server.started:
                holder["listener"] = server.servers[0].sockets[0]
            started.set()
            await task

        asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(300), "the server did not start"
    try:
        yield LiveServer(holder["service"], holder["listener"])
    finally:
        holder["server"].should_exit = True
        thread.join(20)


def tone(frequency: float, seconds: float, sample_rate: int = 16_000, level: float = 0.3) -> Wave:
    """Return a sine [n], float32."""
    time_axis = np.arange(round(seconds * sample_rate)) / sample_rate
    return (level * np.sin(2 * np.pi * frequency * time_axis)).astype(np.float32)


def speech_like(seconds: float, seed: int = 0) -> Wave:
    """Return pulses through three resonances with a moving pitch and pauses, 16 kHz: not speech, but shaped like it."""
    from scipy.signal import lfilter

    generator = np.random.default_rng(seed)
    time_axis = np.arange(round(seconds * 16_000)) / 16_000
    phase = np.cumsum(110 + 30 * np.sin(2 * np.pi * 0.6 * time_axis + seed)) / 16_000
    wave = np.diff(np.floor(phase), prepend=0.0) + 0.002 * generator.standard_normal(len(time_axis))
    for centre, width in ((600, 80), (1400, 120), (2600, 160)):
        radius = np.exp(-np.pi * width / 16_000)
        wave = lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * centre / 16_000), radius**2], wave)
    wave *= np.clip(np.sin(2 * np.pi * 1.7 * time_axis) + 0.6, 0, 1)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def real_speech() -> tuple[Wave, str] | None:
    """Return a LibriSpeech utterance at 16 kHz and its transcript, where this machine has them."""
    folder = SPEECH / "librispeech-test-other"
    table = folder / "metadata.csv"
    if not table.is_file():
        return None
    import csv

    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        name = next((value for value in row.values() if value and value.endswith(".flac")), "")
        path = folder / name if (folder / name).is_file() else folder / "audio" / Path(name).name
        if path.is_file():
            wave, rate = soundfile.read(path, dtype="float32")
            text = next((row[key] for key in ("text", "transcript", "transcription") if row.get(key)), "")
            if rate == 16_000 and 8 * rate < len(wave) < 14 * rate and text:
                return wave, text
    return None
