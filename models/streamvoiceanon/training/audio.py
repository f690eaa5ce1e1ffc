"""Waves as batches: what the tasks that hear speech share."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.streamvoiceanon.training.spelling import pad_letters
from models.streamvoiceanon.training.task import Batch


def collate_waves(items: Sequence[Mapping[str, NDArray]], frame_samples: int) -> Batch:
    """Pad items to one batch.

    An item holds `wave`, float32 [samples], and, where its task wants them, `teacher` [frames, D], `speaker`, a number,
    and `letters` (`spelling.spell`), none where they are not known. The batch holds `samples` [B, whole frames],
    `lengths` [B] in samples, `teacher` [B, frames, D], `speaker` [B], `letters` [B, most] and `letter_counts` [B].
    Raises ValueError that names the item where a wave is empty or not finite, or its teacher frames are
    not as many as its frames.
    """
    for i, item in enumerate(items):
        wave, frames = item["wave"], -(-len(item["wave"]) // frame_samples)
        if not len(wave) or not np.isfinite(wave).all():
            raise ValueError(f"item {i}: the wave is empty or holds samples that are not finite")
        if "teacher" in item and len(item["teacher"]) != frames:
            raise ValueError(f"item {i}: {len(item['teacher'])} teacher frames for {frames} frames of speech")
    waves = [torch.from_numpy(np.asarray(item["wave"], dtype=np.float32)) for item in items]
    samples = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    batch = {
        "samples": nn.functional.pad(samples, (0, -samples.shape[1] % frame_samples)),
        "lengths": torch.tensor([len(wave) for wave in waves]),
    }
    if all("teacher" in item for item in items):
        teacher = [torch.from_numpy(np.asarray(item["teacher"], dtype=np.float32)) for item in items]
        batch["teacher"] = nn.utils.rnn.pad_sequence(teacher, batch_first=True)
    if all("speaker" in item for item in items):
        batch["speaker"] = torch.tensor([int(item["speaker"]) for item in items])
    if all("letters" in item for item in items):
        batch["letters"], batch["letter_counts"] = pad_letters([item["letters"].tolist() for item in items])
    return batch


def within(lengths: Tensor, size: int, step: int) -> Tensor:
    """Which of `size` steps of `step` samples begin within each utterance: bool [B, size]."""
    return torch.arange(size, device=lengths.device) * step < lengths.unsqueeze(1)
