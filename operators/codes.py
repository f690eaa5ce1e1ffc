"""Codes: what the language model is trained on, computed once an utterance by the networks that do not change; frames:
how long an utterance is for those networks; and who else says it, for an encoder that learns to hear."""

import zlib
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.content_encoder import with_pitch, without_pitch
from models.streamvoiceanon.training.perturb import perturb
from operators.decode import Batch, Unusable, find_beside, object_array
from operators.encode import encode_flac

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
    recording in `heard` is damaged. Of an encoder that hears several codes at once `content` is [draws x frames x
    nearest x 2].

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
                    parts = (content.flatten(), voice.acoustic.flatten(), voice.style, voice.timbre.flatten())
                    row = (voice.frames, *(part.numpy() for part in parts), len(voice.timbre))
                except Unusable as fault:
                    batch["reason"][index], batch["detail"][index] = fault.reason, fault.detail
                except ValueError as fault:
                    batch["reason"][index], batch["detail"][index] = "failed", str(fault).splitlines()[0]
            rows.append(row)
        return batch | {
            name: object_array(list(column)) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
        }

    def content(self, utt_id: str, wave: NDArray[np.float32], codes: torch.Tensor) -> torch.Tensor:
        """Return the content [draws x frames] to learn from; `codes` are the likeliest of the wave as it is."""
        frames, plain = len(codes), codes
        random = np.random.default_rng([self.seed, zlib.crc32(utt_id.encode())])
        other = None if self.heard is None else by_somebody_else(self.heard, utt_id, len(wave), self.model.sample_rate)
        if self.model.config.content_encoder.nearest > 1:
            plain = self.model.encode_content(torch.from_numpy(wave))[:frames]
        drawn = []
        for draw in range(self.draws):
            turn = draw % 2 == 1 or self.draws == 1
            said = other if other is not None and turn else wave
            if random.random() < self.perturbed:
                content = self.model.encode_content(torch.from_numpy(perturb(said, self.model.sample_rate, random)))
            elif said is wave:
                content = plain
            else:
                content = self.model.encode_content(torch.from_numpy(said))
            content = content[:frames]
            if said is other and (pitches := self.model.config.content_encoder.pitch_codes):
                content = with_pitch(without_pitch(content, pitches), codes % pitches, pitches)
            drawn.append(content)
        return torch.cat(drawn)


class FindHeard:
    """Adds `heard`: the recording <utt_id>.flac of a folder, as long as `wave`, as 16-bit FLAC like `Encode`'s; without
    bytes where there is none, or no folder. A row whose recording is damaged gets a reason."""

    needs = ("utt_id", "wave", "reason", "detail")
    adds = ("heard",)

    def __init__(self, folder: str | None, sample_rate: int) -> None:
        self.folder, self.sample_rate = None if folder is None else Path(folder), sample_rate

    def __call__(self, batch: Batch) -> Batch:
        found = []
        for index, wave in enumerate(batch["wave"]):
            other = None
            if self.folder is not None and not batch["reason"][index]:
                try:
                    other = by_somebody_else(self.folder, batch["utt_id"][index], len(wave), self.sample_rate)
                except Unusable as fault:
                    batch["reason"][index], batch["detail"][index] = fault.reason, fault.detail
            found.append({"bytes": None if other is None else encode_flac(other, self.sample_rate), "path": None})
        return batch | {"heard": object_array(found)}


def by_somebody_else(folder: Path, utt_id: str, samples: int, sample_rate: int) -> NDArray[np.float32] | None:
    """Return what is heard instead of an utterance, cut or padded to as many `samples`; None where nothing is.

    Raises Unusable.
    """
    if (path := find_beside(folder, utt_id, ".flac")) is None:
        return None
    wave = read_heard(path, sample_rate)
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
