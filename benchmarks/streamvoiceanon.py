"""How fast the neural anonymizer is on this machine, and what it holds in memory.

    python benchmarks/streamvoiceanon.py [--json FILE] [--threads 2] [--quick]

The weights are the deterministic ones of the tests (no checkpoint is needed; the time does not depend on their
values), the speech is noise. RTF is seconds on the clock per second of speech; CPU is processor seconds per second of
speech, which a busy machine disturbs less (with --threads 1 the two agree on a quiet one). Memory is what each case
adds to an interpreter with torch imported, in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

BARE_PAGES = int(Path("/proc/self/statm").read_text().split()[1])  # with torch imported, and nothing of this project
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests/models/streamvoiceanon/data")]

from fill_weights import fill_tensor  # noqa: E402

from models.streamvoiceanon import StreamVoiceAnon, Voice  # noqa: E402
from models.streamvoiceanon import checkpoint as checkpoints  # noqa: E402
from models.streamvoiceanon.config import Config, build_networks  # noqa: E402
from models.streamvoiceanon.frontend import PUBLISHED  # noqa: E402
from models.streamvoiceanon.generation import Utterance, write_all  # noqa: E402

FRAME_SECONDS = PUBLISHED.seconds
PROMPT_FRAMES = 215  # 10 seconds, as `voxveil voices build` crops a prompt
ORIGINAL = {
    "streaming.rtf.1": 35.0,
    "encoder": 5.0,
    "decoder": 26.0,
    "lm": 4.0,
    "offline.rtf.1": 4.45,
}  # SPEC.md, section 8


def resident_gib() -> float:
    """Resident memory of this process now, in GiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def prepare(folder: Path) -> None:
    """Write a converted checkpoint of deterministic weights, as `voxveil model convert` would."""
    contract = checkpoints.contract()
    states = {
        network: {
            key: torch.from_numpy(fill_tensor(key, tuple(shape))).to(getattr(torch, dtype))
            for key, (shape, dtype) in entry["tensors"].items()
            if shape and "mask" not in key  # counters and masks serve training alone
        }
        for network, entry in contract.items()
    }
    networks = build_networks(Config())
    checkpoints.load_networks(networks, states)
    checkpoints.save_converted(folder, networks, Config(), {})


def random_voice(frames: int) -> Voice:
    """A voice with a prompt of `frames` random frames."""
    draw = torch.Generator().manual_seed(0)
    return Voice(
        torch.randint(8192, (frames,), generator=draw),
        torch.randint(1000, (8, frames), generator=draw),
        torch.randn(192, generator=draw),
        torch.randn(32, 128, generator=draw),
    )


class Stopwatch:
    """Seconds spent in one function of an object, call by call."""

    def __init__(self, owner: object, name: str) -> None:
        self.seconds: list[float] = []
        inner = getattr(owner, name)

        def timed(*args: object, **kwargs: object) -> object:
            start = time.perf_counter()
            result = inner(*args, **kwargs)
            self.seconds.append(time.perf_counter() - start)
            return result

        setattr(owner, name, timed)


def measure_streaming(model: StreamVoiceAnon, sessions: int, frames: int) -> dict[str, float]:
    """Move `sessions` streams together for `frames` frames; times are per frame of the whole batch."""
    batch = model.open_batch(sessions)
    voice = random_voice(PROMPT_FRAMES)
    slots = [batch.open(voice, 2, torch.Generator().manual_seed(i)) for i in range(sessions)]
    samples = 0.1 * torch.randn(sessions, PUBLISHED.samples, generator=torch.Generator().manual_seed(1))
    for _ in range(4):  # past the delay, everything allocated
        batch.step(dict(zip(slots, samples, strict=True)))
    encoder = Stopwatch(model.content_encoder, "forward")
    decoder = Stopwatch(model.codec, "decode")
    seconds = []
    computing = time.process_time()
    for _ in range(frames):
        start = time.perf_counter()
        batch.step(dict(zip(slots, samples, strict=True)))
        seconds.append(time.perf_counter() - start)
    computing = time.process_time() - computing
    del model.content_encoder.forward, model.codec.decode
    total, speech = sum(seconds), sessions * frames * FRAME_SECONDS
    return {
        "rtf": total / speech,
        "cpu": computing / speech,
        "rtf_median": sessions**-1 * float(np.median(seconds)) / FRAME_SECONDS,
        "encoder": sum(encoder.seconds) / speech,
        "decoder": sum(decoder.seconds) / speech,
        "lm": (total - sum(encoder.seconds) - sum(decoder.seconds)) / speech,
        **{f"p{q}_ms": 1e3 * float(np.percentile(seconds, q)) for q in (50, 95, 99)},
        "max_ms": 1e3 * max(seconds),  # where all sessions refill
    }


def measure_offline(model: StreamVoiceAnon, utterances: int, seconds: float) -> dict[str, float]:
    """Anonymize `utterances` waves of `seconds` in one call."""
    draw = torch.Generator().manual_seed(2)
    frames = round(seconds / FRAME_SECONDS)
    waves = [0.1 * torch.randn(frames * PUBLISHED.samples, generator=draw) for _ in range(utterances)]
    voice = random_voice(48)
    encoder, decoder = Stopwatch(model, "encode_content"), Stopwatch(model, "_decode")
    start, computing = time.perf_counter(), time.process_time()
    model.anonymize(waves, [voice] * utterances, seeds=range(utterances))
    total, speech = time.perf_counter() - start, utterances * frames * FRAME_SECONDS
    del model.encode_content, model._decode
    parts = {"encoder": sum(encoder.seconds) / speech, "decoder": sum(decoder.seconds) / speech}
    cpu = (time.process_time() - computing) / speech
    return {"rtf": total / speech, "cpu": cpu, **parts, "lm": total / speech - sum(parts.values())}


def measure_precision(folder: Path, frames: int) -> dict[str, float]:
    """Compare the int8 language model with the float32 one on the same, given codes: logits and chosen codes."""
    exact = StreamVoiceAnon.from_pretrained(folder, precision="float32")
    fast = StreamVoiceAnon.from_pretrained(folder, precision="int8")
    draw, voice = torch.Generator().manual_seed(3), random_voice(48)
    content = torch.randint(8192, (frames,), generator=draw)
    acoustic = torch.randint(1000, (8, frames), generator=draw)
    with torch.inference_mode():
        logits = []
        for lm, model in ((exact.acoustic_lm, exact), (fast.acoustic_lm, fast)):
            pairs = torch.stack([lm.embed_content(content), lm.embed_acoustic(acoustic)], dim=1).flatten(0, 1)
            vectors = torch.cat([model.prompt(voice).condition, pairs]).unsqueeze(0)
            hidden, _ = lm.slow(vectors, lm.initial_state(1, vectors.shape[1]))
            places = hidden[0, len(vectors[0]) - 2 * frames :: 2]
            logits.append(lm.frame_logits(places, acoustic.T))
        distance = (logits[0] - logits[1]).abs()
        agree = (logits[0].argmax(-1) == logits[1].argmax(-1)).float().mean()
        kl = (logits[0].log_softmax(-1).exp() * (logits[0].log_softmax(-1) - logits[1].log_softmax(-1))).sum(-1).mean()
        greedy = [
            next(iter(write_all(m.acoustic_lm, [Utterance(content, m.prompt(voice), None)], 2, 1, 0)))[1]
            for m in (exact, fast)
        ]
    return {
        "logit_std": float(logits[0].std()),
        "logit_distance_mean": float(distance.mean()),
        "logit_distance_max": float(distance.max()),
        "argmax_agreement": float(agree),
        "kl_nats": float(kl),
        "free_running_agreement": float((greedy[0] == greedy[1]).float().mean()),
    }


def case(name: str, folder: Path, threads: int, quick: bool) -> dict[str, float]:
    """Run one case in this process."""
    torch.set_num_threads(threads)
    bare = BARE_PAGES * os.sysconf("SC_PAGE_SIZE") / 2**30
    kind, _, count = name.partition(".")
    # With the prompt, 600 frames pass the 768 of a sequence, so one frame in them refills it.
    frames = 60 if quick else 600
    if kind == "precision":
        return measure_precision(folder, 16 if quick else 64)
    start = time.perf_counter()
    for file in folder.iterdir():
        with file.open("rb") as opened:
            while opened.read(1 << 24):
                pass
    read = time.perf_counter() - start
    build_networks(Config())  # PyTorch's first networks take a second, whatever they are
    start = time.perf_counter()
    checkpoints.load_networks(build_networks(Config()), checkpoints.read_converted(folder)[0])
    mapped = time.perf_counter() - start
    start = time.perf_counter()
    model = StreamVoiceAnon.from_pretrained(folder, precision="float32" if "float32" in kind else "auto")
    loaded = time.perf_counter() - start
    steady = resident_gib()
    if kind.startswith("streaming"):
        result = measure_streaming(model, int(count), frames)
    else:
        result = measure_offline(model, int(count), 3.0 if quick else 8.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        **result,
        "read_seconds": read,
        "mapped_seconds": mapped,
        "load_seconds": loaded,
        "parameters": model.parameters_held(),
        "resident_loaded_gib": steady - bare,
        "resident_gib": resident_gib() - bare,
        "peak_gib": peak - bare,
    }


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


CASES = (
    *("streaming.1", "streaming.4", "streaming.8", "streaming_float32.1"),
    *("offline.1", "offline.8", "offline.32", "offline_float32.32", "precision"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="shorter runs, rougher figures")
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/benchmark-checkpoint"), help="where the weights are kept"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(case(arguments.case, arguments.folder, arguments.threads, arguments.quick)))
        return
    if not checkpoints.is_converted(arguments.folder):
        prepare(arguments.folder)
    loading: list[float] = []
    figures: dict[str, object] = {"threads": arguments.threads, "original": ORIGINAL}
    columns = {
        "RTF": 7,
        "CPU": 7,
        "encoder": 9,
        "LM": 7,
        "decoder": 9,
        "p50 ms": 8,
        "p95": 7,
        "p99": 7,
        "max": 7,
        "resident": 10,
        "peak": 7,
        "weights M": 11,
    }
    print("case".ljust(22) + "".join(head.rjust(width) for head, width in columns.items()))
    for name in arguments.only:
        command = [sys.executable, __file__, "--case", name, "--folder", str(arguments.folder)]
        command += ["--threads", str(arguments.threads), *["--quick"] * arguments.quick]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(output.splitlines()[-1])
        if name == "precision":
            figures["precision"] = result
            print("int8 against float32: " + ", ".join(f"{key} {value:.4f}" for key, value in result.items()))
            continue
        kind, _, count = name.partition(".")
        kind, _, exact = kind.partition("_")
        suffix = f"_{exact}" if exact else ""
        for key, value in result.items():
            figures[f"{kind}.{key}{suffix}.{count}"] = value
        if name == "streaming.1":
            figures["resident_gib"] = result["resident_gib"]
            loading = [result[f"{what}_seconds"] for what in ("read", "mapped", "load")]
        keys = (
            "rtf",
            "cpu",
            "encoder",
            "lm",
            "decoder",
            "p50_ms",
            "p95_ms",
            "p99_ms",
            "max_ms",
            "resident_gib",
            "peak_gib",
        )
        cells = [_cell(result.get(key), 1 if key.endswith("ms") else 2) for key in keys]
        cells.append(_cell(result["parameters"] / 1e6, 1))
        print(name.ljust(22) + "".join(c.rjust(w) for c, w in zip(cells, columns.values(), strict=True)), flush=True)
    if loading:
        told = "the file read in {:.2f} s; loaded, its weights in place, in {:.2f} s; loaded and packed in {:.2f} s"
        print(told.format(*loading))
    print("the original: streaming 35 (encoder 5, LM 4, decoder 26); offline 4.45, one at a time")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
