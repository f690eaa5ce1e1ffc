"""Batches for the training of an attacker's network: crops of anonymized speech, read row by row from Parquet parts.

A part keeps one row a row group, so that any utterance is read without its neighbours and memory stays flat as a
corpus grows. Every crop follows from the seed and the number of its batch, in whatever process it is cut.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from operators.decode import decode_wave
from operators.schema import InputError
from pipelines.training.feed import item_at

RATE = 16_000
MAX_SECONDS = 3600.0
HELD_OUT = 0.1  # of the speakers, for validation
FEWEST_SPEAKERS = 4
PAIRS_AT_ONCE = 64  # of held-out speech in a batch


@dataclass(frozen=True)
class Spoken:
    """Where an utterance lies, and who spoke it."""

    utt_id: str
    speaker: str
    part: str
    group: int


def list_spoken(folder: Path) -> list[Spoken]:
    """Return the usable utterances of the parts in a folder, in the order of their ids, each once."""
    found: dict[str, Spoken] = {}
    for part in sorted(folder.glob("*.parquet")):
        for group, row in enumerate(pq.read_table(part, columns=["utt_id", "speaker_id", "reason"]).to_pylist()):
            if not row["reason"]:
                spoken = Spoken(row["utt_id"], row["speaker_id"], str(part.absolute()), group)
                found.setdefault(spoken.utt_id, spoken)
    return [found[utt_id] for utt_id in sorted(found)]


def hold_out(spoken: list[Spoken], seed: int) -> tuple[list[Spoken], list[Spoken]]:
    """Return the utterances to train on and those of held-out speakers, all of people with two utterances or more.

    Raises InputError where there are fewer than four such people.
    """
    own: dict[str, list[Spoken]] = {}
    for one in spoken:
        own.setdefault(one.speaker, []).append(one)
    names = sorted(name for name, rows in own.items() if len(rows) > 1)
    if len(names) < FEWEST_SPEAKERS:
        raise InputError(
            f"the attacker's corpus shows {len(names)} voices more than once; a network needs {FEWEST_SPEAKERS} "
            "speakers at least, two of them to tell how well it learns"
        )
    shuffled = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    count = max(2, round(HELD_OUT * len(names)))
    held_out = [one for name in sorted(shuffled[:count]) for one in own[name][:2]]
    return [one for name in sorted(shuffled[count:]) for one in own[name]], held_out


class CropFeed:
    """Crops of `seconds` of training speech, a random place of each utterance in every epoch."""

    def __init__(self, folder: Path, seconds: float, batch_size: int, seed: int) -> None:
        self.spoken, self.held_out = hold_out(list_spoken(folder), seed)
        self.number_of = {name: number for number, name in enumerate(sorted({one.speaker for one in self.spoken}))}
        self.samples, self.batch_size, self.seed = int(seconds * RATE), batch_size, seed

    def _drawn(self, number: int) -> list[Spoken]:
        """Return the utterance of each row of a batch: every epoch has each once."""
        positions = range(number * self.batch_size, (number + 1) * self.batch_size)
        return [self.spoken[item_at(position, len(self.spoken), self.seed)[1]] for position in positions]

    def batch(self, number: int) -> dict[str, Tensor]:
        """Return `waves` [B, T], the number of each speaker [B], and `lengths` [B] in samples."""
        drawn = self._drawn(number)
        waves = [self.crop(one, np.random.default_rng([self.seed, number, row])) for row, one in enumerate(drawn)]
        speakers = torch.tensor([self.number_of[one.speaker] for one in drawn])
        return {"waves": torch.from_numpy(np.stack(waves)), "speakers": speakers, "lengths": self._lengths(len(waves))}

    def names(self, number: int) -> list[str]:
        """Return the ids of a batch's utterances."""
        return [one.utt_id for one in self._drawn(number)]

    def validation(self) -> list[dict[str, Tensor]]:
        """Return the first two utterances of each held-out speaker, from their middles, in rows 2 i and 2 i + 1."""
        batches = []
        for start in range(0, len(self.held_out), 2 * PAIRS_AT_ONCE):
            waves = [self.crop(one, None) for one in self.held_out[start : start + 2 * PAIRS_AT_ONCE]]
            batches.append({"waves": torch.from_numpy(np.stack(waves)), "lengths": self._lengths(len(waves))})
        return batches

    def crop(self, one: Spoken, generator: np.random.Generator | None) -> np.ndarray:
        """Return [T] samples from a random place of an utterance (its middle without a generator).

        An utterance that is shorter is repeated.
        """
        audio = pq.ParquetFile(one.part).read_row_group(one.group, columns=["audio"])["audio"][0].as_py()
        wave = decode_wave(audio["bytes"], RATE, MAX_SECONDS)
        if len(wave) < self.samples:
            wave = np.tile(wave, -(-self.samples // len(wave)))
        room = len(wave) - self.samples
        start = room // 2 if generator is None else int(generator.integers(room + 1))
        return np.ascontiguousarray(wave[start : start + self.samples])

    def _lengths(self, rows: int) -> Tensor:
        return torch.full((rows,), self.samples)
