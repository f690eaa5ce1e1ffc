"""Screen: decoded waves that carry no usable speech get the reason why, and go on to quarantine."""

import numpy as np

from operators.decode import Batch

# Peak below -54 dBFS: no recording of speech is this quiet, and amplifying it would amplify noise alone. A constant
# offset, as a dead microphone leaves it, is no sound: half the way from the lowest to the highest sample counts.
SILENCE_PEAK = 0.002
# A sample counts as clipped at 0.999 of full scale. Loud recordings touch it here and there; at one sample in ten
# the waveform is flat-topped throughout.
FULL_SCALE = 0.999
CLIPPED_FRACTION = 0.1


class Screen:
    """Fills `reason` and `detail` where a wave is too short, silent, clipped or not finite, and empties its `wave`."""

    needs = ("wave", "reason", "detail")
    adds = ()

    def __init__(self, sample_rate: int, min_seconds: float) -> None:
        self.sample_rate = sample_rate
        self.min_seconds = min_seconds

    def __call__(self, batch: Batch) -> Batch:
        for index, wave in enumerate(batch["wave"]):
            if batch["reason"][index]:
                continue
            reason, detail = self.judge(wave)
            if reason:
                batch["reason"][index] = reason
                batch["detail"][index] = detail
                batch["wave"][index] = np.zeros(0, np.float32)
        return batch

    def judge(self, wave: np.ndarray) -> tuple[str, str]:
        """Return (reason, detail) for a wave, both empty where it may be used."""
        bad = int(np.count_nonzero(~np.isfinite(wave)))
        if bad:
            return "non_finite", f"{bad} of {len(wave)} samples"
        seconds = len(wave) / self.sample_rate
        if seconds < self.min_seconds:
            return "too_short", f"{seconds:.2f} s"
        magnitude = np.abs(wave)
        peak = float(np.ptp(wave)) / 2
        if peak < SILENCE_PEAK:
            return "silent", f"peak {peak:.5f}"
        clipped = float((magnitude >= FULL_SCALE).mean())
        if clipped > CLIPPED_FRACTION:
            return "clipped", f"{clipped:.0%} of the samples at full scale"
        return "", ""


class RequireUsable:
    """Stops the job where a row that was usable before is not any more: its audio changed or vanished meanwhile."""

    needs = ("reason", "detail")
    adds = ()

    def __call__(self, batch: Batch) -> Batch:
        for reason, detail in zip(batch["reason"], batch["detail"], strict=True):
            if reason:
                raise RuntimeError(f"audio that was usable before is {reason} now ({detail}): did the corpus change?")
        return batch
