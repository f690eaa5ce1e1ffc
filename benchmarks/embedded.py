"""How fast the embedded anonymizer is on one core: loaded, live, several calls at once, and whole utterances, heard as
a call is and heard to their end.

    OMP_NUM_THREADS=1 python -m benchmarks.embedded

Speech is the sample corpus. Every figure is the median of several runs; a step is a frame of 40 ms in all calls.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from torch import Tensor

from models.catalogue import AnonymizerSpec, load_anonymizer
from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.stream import Stream, push_many

SAMPLE = Path(__file__).parents[1] / "sample" / "english"
RATE = 16_000
CONTEXTS: tuple[Literal["causal", "full"], ...] = ("causal", "full")
LOAD = (
    "import time; from models.catalogue import AnonymizerSpec, load_anonymizer as load; import torch, pyarrow.parquet; "
    "import models.streamvoiceanon, faster_whisper; t = time.perf_counter(); "
    "load(AnonymizerSpec('streamvoiceanon', context='{context}'), 16_000); print(time.perf_counter() - t)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4, 6])
    parser.add_argument("--seconds", type=float, default=12.0, help="of speech in each call")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, StreamVoiceAnon] = {}
    for context in CONTEXTS:
        load = [sys.executable, "-c", LOAD.format(context=context)]
        loads = [float(subprocess.check_output(load)) for _ in range(options.repeat)]
        print(f"{f'loading, {context}':21} {statistics.median(loads):.2f} s")
        loaded = load_anonymizer(AnonymizerSpec("streamvoiceanon", context=context), RATE)
        assert isinstance(loaded, StreamVoiceAnon)
        models[context] = loaded
    model = models["causal"]
    waves = read_speech(options.seconds, max(*options.calls, 8))
    for calls in options.calls:
        runs = [live(model, waves[:calls]) for _ in range(options.repeat)]
        rate, p99, longest = (statistics.median(column) for column in zip(*runs, strict=True))
        print(
            f"{calls} live call{'s' if calls > 1 else ' '}          {rate:.3f} s a second of all, "
            f"step p99 {1e3 * p99:.1f} ms, longest {1e3 * longest:.1f} ms"
        )
    for batch in (1, 8):
        seconds = sum(map(len, waves[:batch])) / RATE
        voices = [model.draw_voice(seed) for seed in range(batch)]
        times: dict[str, list[float]] = {context: [] for context in CONTEXTS}
        for _ in range(options.repeat):
            for context in CONTEXTS:  # by turns: what else the machine does meets both
                began = time.perf_counter()
                models[context].anonymize(waves[:batch], voices)
                times[context].append((time.perf_counter() - began) / seconds)
        for context in CONTEXTS:
            name = f"whole, {context}, {batch}"
            print(f"{name:21} {statistics.median(times[context]):.3f} s a second of each")


def read_speech(seconds: float, count: int) -> list[Tensor]:
    """Return `count` waves of so many seconds, each another part of the corpus."""
    paths = [row["path"] for row in pq.read_table(SAMPLE / "index.parquet")["audio"].to_pylist()]
    whole = np.concatenate([soundfile.read(SAMPLE / path, dtype="float32")[0] for path in paths])
    length = round(seconds * RATE)
    return [torch.from_numpy(whole[n * length : (n + 1) * length].copy()) for n in range(count)]


def live(model: StreamVoiceAnon, waves: list[Tensor]) -> tuple[float, float, float]:
    """Return seconds of computing a second of speech, and the 99th percentile and longest of the steps, in seconds."""
    batch = model.open_batch(len(waves))
    streams = [
        Stream(batch, model.draw_voice(n), model.delay, torch.Generator().manual_seed(n)) for n, _ in enumerate(waves)
    ]
    times = []
    for frames in zip(*(wave.split(model.frame_samples) for wave in waves), strict=True):
        began = time.perf_counter()
        push_many(streams, frames)
        times.append(time.perf_counter() - began)
    for stream in streams:
        stream.finish()
    steps = sorted(times[1:])  # the first reads the voices
    return sum(times) / (len(waves[0]) / RATE), steps[int(0.99 * len(steps))], steps[-1]


if __name__ == "__main__":
    main()
