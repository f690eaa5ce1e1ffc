"""What each operator of a release costs on one core, in seconds of computing a second of speech.

    OMP_NUM_THREADS=1 python -m benchmarks.operators

Runs every operator over the same utterances of the sample corpus, three times after a warm-up, and prints the median of
the processor time. `times real time` is how many seconds of speech one core gets through in a second.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq

from models.catalogue import AnonymizerSpec
from models.registry import PROFILES
from operators.anonymize import Anonymize
from operators.decode import Batch, Decode, object_array
from operators.embed_speaker import EmbedSpeaker
from operators.encode import Encode
from operators.quality import MeasureQuality
from operators.recognize_emotion import RecognizeEmotion
from operators.screen import Screen
from operators.transcribe import Transcribe
from pipelines.terminal import SAMPLE

UTTERANCES = 16
RATE = 16_000
RUNS = 3


def main() -> None:
    weights = PROFILES["embedded"]
    rows = pq.read_table(SAMPLE).slice(0, UTTERANCES).to_pylist()
    batch: Batch = {name: object_array([row[name] for row in rows]) for name in rows[0]}
    operators: list[tuple[str, Callable[[Batch], Batch]]] = [
        ("decode", Decode(str(SAMPLE.parent), RATE, 120)),
        ("screen", Screen(RATE, 0.5)),
        ("anonymize (mcadams)", Anonymize(AnonymizerSpec("mcadams"), RATE, bytes(32), "utterance")),
        ("embed_speaker (GE2E)", EmbedSpeaker(weights["speaker"], "cpu")),
        ("transcribe (tiny.en)", Transcribe(weights["whisper"], "en", "cpu")),
        ("recognize_emotion", RecognizeEmotion(weights["emotion"], "cpu")),
        ("quality (DNSMOS, F0)", MeasureQuality(weights["quality"])),
        ("encode (FLAC)", Encode(RATE)),
    ]
    seconds = 0.0
    print(f"{'operator':<22} {'s / s of speech':>16} {'times real time':>16}")
    for name, operator in operators:
        result = operator(dict(batch))  # the warm-up; its columns feed the next operator
        spent = []
        for _ in range(RUNS):
            start = time.process_time()
            operator(dict(batch))
            spent.append(time.process_time() - start)
        batch = result
        if not seconds:
            seconds = sum(len(wave) for wave in result["wave"]) / RATE
        cost = statistics.median(spent) / seconds
        print(f"{name:<22} {cost:16.4f} {np.divide(1, cost):16.0f}")
    print(f"over {UTTERANCES} utterances, {seconds:.0f} s of speech")


if __name__ == "__main__":
    main()
