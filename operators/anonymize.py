"""Anonymize: every wave that passed the screen is spoken again in a voice drawn from the job's key.

What an utterance becomes depends on its own samples, its id, the key and, where that is told, its speaker's usual
pitch: batches, workers and retries change nothing, so a run may be cut anywhere and repeated with the same key to the
same bytes.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import soxr

from models.catalogue import AnonymizerSpec, load_anonymizer
from operators.decode import Batch
from operators.keys import keyed_seed

VoiceLevel = Literal["utterance", "speaker"]


class Anonymize:
    """Replaces `wave` by its anonymized form, as long as before; a wave that the anonymizer refuses is quarantined.

    `usual_pitch` is that of each speaker, as `Anonymizer.anonymize` has it.
    """

    needs = ("utt_id", "speaker_id", "wave", "reason", "detail")
    adds = ()

    def __init__(
        self,
        anonymizer: AnonymizerSpec,
        sample_rate: int,
        key: bytes,
        voice_level: VoiceLevel,
        usual_pitch: Mapping[str, float] | None = None,
    ) -> None:
        self.model = load_anonymizer(anonymizer, sample_rate)
        self.sample_rate = sample_rate
        self.key = key
        self.voice_level = voice_level
        self.usual_pitch = usual_pitch or {}

    def __call__(self, batch: Batch) -> Batch:
        rows = [index for index, reason in enumerate(batch["reason"]) if not reason]
        try:
            outputs = self.speak(batch, rows)
        except ValueError:  # one wave spoils the batch: find it
            outputs = []
            for row in rows:
                try:
                    outputs += self.speak(batch, [row])
                except ValueError as fault:
                    batch["reason"][row], batch["detail"][row] = "failed", str(fault).splitlines()[0]
                    outputs.append(np.zeros(0, np.float32))
        for row, output in zip(rows, outputs, strict=True):
            batch["wave"][row] = output
        return batch

    def speak(self, batch: Batch, rows: list[int]) -> list[np.ndarray]:
        """Return the anonymized waves of some rows, at the job's rate and of their sources' lengths."""
        import torch  # by the workers alone: whoever plans a job has no use for it

        names = batch["speaker_id"] if self.voice_level == "speaker" else batch["utt_id"]
        voices = [self.model.draw_voice(keyed_seed(self.key, "voice", str(names[row]))) for row in rows]
        seeds = [keyed_seed(self.key, "sampling", str(batch["utt_id"][row])) for row in rows]
        waves = [
            torch.from_numpy(self.resample(batch["wave"][row], self.sample_rate, self.model.sample_rate))
            for row in rows
        ]
        usual = [self.usual_pitch.get(str(batch["speaker_id"][row])) for row in rows]
        outputs = self.model.anonymize(waves, voices, seeds, usual)
        return [
            fit(self.resample(output.cpu().numpy(), self.model.sample_rate, self.sample_rate), len(batch["wave"][row]))
            for row, output in zip(rows, outputs, strict=True)
        ]

    @staticmethod
    def resample(wave: np.ndarray, source: int, target: int) -> np.ndarray:
        return wave if source == target else soxr.resample(wave, source, target).astype(np.float32)


def fit(wave: np.ndarray, samples: int) -> np.ndarray:
    """Return the wave cut or padded with silence to `samples`, scaled down where its peak is above full scale."""
    fitted = np.zeros(samples, np.float32)
    fitted[: min(samples, len(wave))] = wave[:samples]
    peak = float(np.abs(fitted).max(initial=0.0))
    return fitted / peak if peak > 1.0 else fitted
