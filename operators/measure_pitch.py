"""MeasurePitch: how high every wave is, of which `pipelines.usual_pitch` makes what is usual of its speaker."""

import numpy as np

from operators.decode import Batch

SAMPLE_RATE = 16_000  # hertz
FRAME = 640  # samples, 40 ms


class MeasurePitch:
    """Adds `octaves`, the mean pitch of a wave at 16 kHz above 1 Hz, and `voiced`, in how many frames it has one."""

    needs = ("wave", "reason")
    adds = ("octaves", "voiced")

    def __call__(self, batch: Batch) -> Batch:
        import torch  # by the workers alone

        from models.streamvoiceanon.contour import mean_pitch

        measured = [
            (0.0, 0) if reason else mean_pitch(torch.from_numpy(wave), FRAME)
            for wave, reason in zip(batch["wave"], batch["reason"], strict=True)
        ]
        batch["octaves"] = np.array([octaves for octaves, _ in measured], np.float64)
        batch["voiced"] = np.array([voiced for _, voiced in measured], np.int64)
        return batch
