"""How fast the auditors' models are on one core, and how near to the packages they build on.

    OMP_NUM_THREADS=1 python -m benchmarks.auditors --corpus ../shared/speech/librispeech-test-other

The corpus is a folder with `metadata.csv` (columns `path`, `text`) and 16 kHz audio. Times are processor seconds a
second of speech, so that a busy machine does not spoil them much.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
from whisper_normalizer.english import EnglishTextNormalizer

from models import speaker
from models.pitch import fundamental_frequency
from models.quality import SAMPLE_RATE, SCALES, Dnsmos
from models.registry import PROFILES, resolve
from models.whisper import Whisper


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    corpus = parser.parse_args().corpus
    with (corpus / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    waves = [soundfile.read(corpus / row["path"], dtype="float32")[0] for row in rows]
    seconds = sum(map(len, waves)) / SAMPLE_RATE
    print(f"{len(waves)} utterances, {seconds:.0f} seconds of speech\n")

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        spent = (time.process_time() - start) / seconds
        print(f"{name:42}{spent:8.4f} s a second of speech ({1 / spent:5.0f} times real time)", flush=True)
        return result

    measure_whisper([row["text"] for row in rows], waves, timed)
    measure_speaker(waves, timed)
    measure_quality(waves, timed)
    timed("pitch", lambda: [fundamental_frequency(wave) for wave in waves])


def measure_whisper(references: list[str], waves: list[np.ndarray], timed: Callable[..., Any]) -> None:
    from faster_whisper import WhisperModel

    normalize = EnglishTextNormalizer()

    def error_rate(texts: list[str]) -> float:
        return float(jiwer.wer([normalize(text) for text in references], [normalize(text) for text in texts]))

    path = resolve(PROFILES["embedded"]["whisper"]).path
    ours = Whisper(path)
    encodings = timed("Whisper encoder", lambda: ours.encode(waves))
    texts = timed("Whisper decoder", lambda: ours.transcribe(encodings))
    plain = WhisperModel(str(path), device="cpu", compute_type="int8", cpu_threads=1)
    theirs = timed(
        "faster_whisper.transcribe",
        lambda: ["".join(part.text for part in plain.transcribe(wave, language="en")[0]) for wave in waves],
    )
    print(f"WER {100 * error_rate(texts):.1f} %, of faster_whisper.transcribe {100 * error_rate(theirs):.1f} %\n")


def measure_speaker(waves: list[np.ndarray], timed: Callable[..., Any]) -> None:
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = speaker.load(resolve(PROFILES["embedded"]["speaker"]).path)
    theirs = VoiceEncoder("cpu", verbose=False)
    theirs.embed_utterance(preprocess_wav(waves[0]))  # librosa compiles here
    ours = timed("GE2E", lambda: encoder.embed(waves))
    expected = timed("resemblyzer", lambda: [theirs.embed_utterance(preprocess_wav(wave)) for wave in waves])
    print(f"largest difference of a coordinate {np.abs(ours - np.stack(expected)).max():.1e}\n")


def measure_quality(waves: list[np.ndarray], timed: Callable[..., Any]) -> None:
    from speechmos.dnsmos import DNSMOS

    path = resolve(PROFILES["embedded"]["quality"]).path
    dnsmos = Dnsmos(path)
    theirs = DNSMOS(str(path / "sig_bak_ovr.onnx"), str(path / "model_v8.onnx"))
    ours = timed("DNSMOS", lambda: dnsmos.score(waves))
    rows = timed("speechmos", lambda: [theirs(wave, SAMPLE_RATE, False) for wave in waves])
    for scale, key in SCALES.items():
        expected = np.array([row[key] for row in rows])
        print(
            f"{scale:12} mean {ours[scale].mean():.3f}, of speechmos {expected.mean():.3f}, "
            f"largest difference {np.abs(ours[scale] - expected).max():.2f}"
        )
    print()


if __name__ == "__main__":
    main()
