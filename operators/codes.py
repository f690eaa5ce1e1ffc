"""Codes: what the language model is trained on, computed once an utterance by the networks that do not change; and
frames: how long an utterance is for those networks."""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.training.perturb import perturb
from operators.decode import Batch, object_array

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
    """Adds `frames`, `content` [frames], `acoustic` [codebooks x frames], `style` and `timbre` [timbre_latents x
    width] of each wave at the model's rate; a wave that the model refuses gets a reason.

    A wave is cut to whole frames; those that are set aside have no codes. Of a share `perturbed` of the utterances,
    drawn by id and `seed`, the content is that of the words in another voice (see `training.perturb`), so that what
    content codes still tell of a speaker is of no use to who learns from them.
    """

    needs = ("utt_id", "wave", "reason", "detail")
    adds = COLUMNS

    def __init__(self, model: str, device: str, perturbed: float = 0.0, seed: int = 0) -> None:
        self.model = StreamVoiceAnon.from_pretrained(model, precision="float32", device=device)
        self.perturbed, self.seed = perturbed, seed

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
                except ValueError as fault:
                    batch["reason"][index], batch["detail"][index] = "failed", str(fault).splitlines()[0]
            rows.append(row)
        return batch | {
            name: object_array(list(column)) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
        }

    def content(self, utt_id: str, wave: NDArray[np.float32], plain: torch.Tensor) -> torch.Tensor:
        """Return the content codes [frames] to learn from: the `plain` ones, or those of a perturbed wave."""
        random = np.random.default_rng([self.seed, zlib.crc32(utt_id.encode())])
        if random.random() >= self.perturbed:
            return plain
        changed = perturb(wave, self.model.sample_rate, random)
        return self.model.encode_content(torch.from_numpy(changed))[: len(plain)]
