"""Speech for the models: utterances of the committed sample corpus, decoded."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

SAMPLE = Path(__file__).parents[2] / "sample" / "english"


class Utterance(NamedTuple):
    wave: np.ndarray  # float32 [samples] at 16 kHz
    text: str
    speaker: str


@pytest.fixture(scope="session")
def utterances() -> list[Utterance]:
    """Two neutral utterances of each of four synthetic speakers."""
    rows = pq.read_table(SAMPLE / "index.parquet").to_pylist()
    speakers = sorted({row["speaker_id"] for row in rows})[:4]
    chosen = []
    for speaker in speakers:
        own = [row for row in rows if row["speaker_id"] == speaker and row["emotion"] == "neutral"]
        for row in sorted(own, key=lambda row: row["utt_id"])[:2]:
            wave, rate = soundfile.read(SAMPLE / row["audio"]["path"], dtype="float32")
            assert rate == 16_000
            chosen.append(Utterance(wave, row["text"], speaker))
    return chosen


@pytest.fixture(scope="session")
def waves(utterances: list[Utterance]) -> list[np.ndarray]:
    """The waves of the utterances."""
    return [utterance.wave for utterance in utterances]
