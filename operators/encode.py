"""Encode: waves to 16-bit FLAC in memory. FLAC made this way carries no tag, no file name, nothing of the source."""

import io

import numpy as np
import soundfile

from operators.decode import Batch, object_array


class Encode:
    """Replaces `wave` by `audio` (FLAC bytes, no path; no bytes where the row is quarantined) and `seconds`."""

    needs = ("wave", "reason")
    adds = ("audio", "seconds")

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def __call__(self, batch: Batch) -> Batch:
        rest = {name: column for name, column in batch.items() if name != "wave"}
        encoded = [
            {"bytes": None if reason else encode_flac(wave, self.sample_rate), "path": None}
            for wave, reason in zip(batch["wave"], batch["reason"], strict=True)
        ]
        seconds = np.array([len(wave) / self.sample_rate for wave in batch["wave"]])
        return rest | {"audio": object_array(encoded), "seconds": seconds}


def encode_flac(wave: np.ndarray, sample_rate: int) -> bytes:
    """Return a float32 wave [samples] as 16-bit FLAC."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1.0, 1.0), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
