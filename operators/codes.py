"""Codes: what the language model is trained on, computed once an utterance by the networks that do not change; and
frames: how long an utterance is for those networks."""

import zlib
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.training.perturb import perturb
from operators.decode import Batch, Unusable, find_beside, object_array

COLUMNS = ("frames", "content", "acoustic", "style", "timbre", "timbre_latents")


class CountFrames:
    """Adds `frames`: how many frames of `frame_samples` each wave begins."""

    needs = ("wave",)
    adds = ("frames",)

    def __init__(self, frame_samples: int) -> None:
        self.frame_samples = frame_samples

    def __call__(self, batch: Batch) -> Batch:
        return batch | {"frames": np.array([-(-len(wave) // self.frame_samples) for wave in batch["wave"]])}


class ComputeCodes:
    """Adds `frames`, `content` [draws x frames], `acoustic` [codebooks x frames], `style` and `timbre` [timbre_latents
    x width] of each wave at the model's rate; a wave that the model refuses gets a reason, and so does one whose
    recording in `heard` is damaged.

    A wave is cut to whole frames; those that are set aside have no codes. The content is heard `draws` times. Of a
    share `perturbed` of the times, drawn by id and `seed`, it is that of the words in another voice (see
    `training.perturb`), so that what content codes still tell of a speaker is of no use to who learns from them. Where
    the folder `heard` has a recording <utt_id>.flac, the same words at the same moments by somebody else, that is heard
    every second time, and where there is one time, that time; its pitch, where codes have one, stays the voice's.
    """

    needs = ("utt_id", "wave", "reason", "detail")
    adds = COLUMNS

    def __init__(
        self,
        model: str,
        device: str,
        perturbed: float = 0.0,
        seed: int = 0,
        draws: int = 1,
        heard: str | None = None,
    ) -> None:
        self.model = StreamVoiceAnon.from_pretrained(model, precision="float32", device=device)
        self.perturbed, self.seed, self.draws = perturbed, seed, draws
        self.heard = Path(heard) if heard else None

    def __call__(self, batch: Batch) -> Batch:
        rows = []
        for index, wave in enumerate(batch["wave"]):
            row: tuple = (0, *[np.zeros(0, np.float32)] * 4, 0)
            if not batch["reason"][index]:
                try:
                    voice = self.model.make_voice(torch.from_numpy(wave))
                    content = self.content(batch["utt_id"][index], wave, voice.content)
                    parts = (content, voice.acoustic.flatten(), voice.style, voice.timbre.flatten())
                    row = (voice.frames, *(part.numpy() for part in parts), len(voice.timbre))
                except Unusable as fault:
                    batch["reason"][index], batch["detail"][index] = fault.reason, fault.detail
                except ValueError as fault:
                    batch["reason"][index], batch["detail"][index] = "failed", str(fault).splitlines()[0]
            rows.append(row)
        return batch | {
            name: object_array(list(column)) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
        }

    def content(self, utt_id: str, wave: NDArray[np.float32], plain: torch.Tensor) -> torch.Tensor:
        """Return the content codes [draws x frames] to learn from; `plain` are those of the wave as it is."""
        random = np.random.default_rng([self.seed, zlib.crc32(utt_id.encode())])
        other = self.by_somebody_else(utt_id, len(wave))
        drawn = []
        for draw in range(self.draws):
            turn = draw % 2 == 1 or self.draws == 1
            said = other if other is not None and turn else wave
            if random.random() < self.perturbed:
                codes = self.model.encode_content(torch.from_numpy(perturb(said, self.model.sample_rate, random)))
            elif said is wave:
                codes = plain
            else:
                codes = self.model.encode_content(torch.from_numpy(said))
            codes = codes[: len(plain)]
            if said is other and (pitches := self.model.config.content_encoder.pitch_codes):
                codes = codes // pitches * pitches + plain % pitches
            drawn.append(codes)
        return torch.cat(drawn)

    def by_somebody_else(self, utt_id: str, samples: int) -> NDArray[np.float32] | None:
        """Return what is heard instead of the voice, cut or padded to as many `samples`; None where nothing is.

        Raises Unusable.
        """
        if self.heard is None or (path := find_beside(self.heard, utt_id, ".flac")) is None:
            return None
        wave = read_heard(path, self.model.sample_rate)
        return np.pad(wave, (0, max(0, samples - len(wave))))[:samples]


def read_heard(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Read a recording of one channel at `sample_rate`. Raises Unusable that names the file."""
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as fault:
        raise Unusable("damaged", f"{path} is not a sound file, or it is damaged: {fault.error_string}") from None
    if wave.shape[1] > 1 or rate != sample_rate:
        raise Unusable(
            "damaged", f"{path} has {wave.shape[1]} channels at {rate} Hz; one at {sample_rate} Hz is needed"
        )
    if not len(wave) or not np.isfinite(wave).all():
        raise Unusable("damaged", f"{path} holds no samples, or samples that are not numbers")
    return wave[:, 0]
