"""The feed of the networks that hear speech: crops of prepared waves, with a teacher's frames where there is one."""

from pathlib import Path

import numpy as np

from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.training.audio import collate_waves
from models.streamvoiceanon.training.perturb import perturb
from models.streamvoiceanon.training.spelling import spell
from pipelines.training.feed import Batch, item_at
from pipelines.training.pairs import split_speakers
from pipelines.training.rows import Rows, wave_of


class WavesFeed:
    """Batches of crops of `crop_frames` frames, at a place drawn for each; see `Feed`.

    A share `perturbed` of the crops is heard in another voice and room; its teacher frames stay the original's, and
    with a teacher each says by number who spoke, and by letters what was said, where it is the whole utterance.
    Validation hears the first `2 x crop_frames` frames of up to `validation_items` utterances of held-out speakers, as
    they are.
    """

    def __init__(
        self,
        parts: Path,
        frames: FrameConfig,
        crop_frames: int,
        batch_size: int,
        teacher: bool,
        perturbed: float,
        validation_share: float,
        validation_items: int,
        seed: int,
    ) -> None:
        self.rows = Rows(parts)
        self.frame_samples, self.sample_rate = frames.samples, frames.sample_rate
        self.crop_frames, self.batch_size, self.perturbed, self.seed = crop_frames, batch_size, perturbed, seed
        self.columns = ("audio", "teacher") if teacher else ("audio",)
        spoken = self.rows.spoken.values()
        training, held_out = split_speakers((row.speaker_id for row in spoken), validation_share, seed)
        self.speakers = {name: number for number, name in enumerate(sorted(training))}
        self.training = sorted(row.utt_id for row in spoken if row.speaker_id in training)
        self.held_out = sorted(row.utt_id for row in spoken if row.speaker_id in held_out)[:validation_items]

    def _places(self, number: int) -> list[tuple[int, str]]:
        """Return (position, utterance) of each item of a training batch."""
        positions = range(number * self.batch_size, (number + 1) * self.batch_size)
        return [(place, self.training[item_at(place, len(self.training), self.seed)[1]]) for place in positions]

    def names(self, number: int) -> list[str]:
        return [name for _, name in self._places(number)]

    def batch(self, number: int) -> Batch:
        items = []
        for place, name in self._places(number):
            spare = max(0, self.rows.spoken[name].frames - self.crop_frames)
            random = np.random.default_rng([self.seed, place, 1])
            item = self.item(name, int(random.integers(0, spare + 1)), self.crop_frames)
            if random.random() < self.perturbed:
                item["wave"] = perturb(item["wave"], self.sample_rate, random)
            if "teacher" in item:
                item["speaker"] = np.array(self.speakers[self.rows.spoken[name].speaker_id])
            items.append(item)
        return collate_waves(items, self.frame_samples)

    def validation(self) -> list[Batch]:
        groups = [self.held_out[n : n + self.batch_size] for n in range(0, len(self.held_out), self.batch_size)]
        return [
            collate_waves([self.item(name, 0, 2 * self.crop_frames) for name in group], self.frame_samples)
            for group in groups
        ]

    def item(self, name: str, first: int, frames: int) -> dict[str, np.ndarray]:
        """Return `frames` frames of an utterance from the frame `first` on, fewer where it ends before."""
        row = self.rows.read(name, self.columns)
        end = first + frames
        item = {"wave": wave_of(row)[first * self.frame_samples : end * self.frame_samples]}
        if "teacher" in row:
            spoken = self.rows.spoken[name]
            item["teacher"] = row["teacher"].reshape(spoken.frames, -1)[first:end]
            item["letters"] = np.array(spell(spoken.text) if not first and end >= spoken.frames else [], np.int64)
        return item
