"""Loudness: what is spoken rises and falls as what is heard.

Content codes tell words and pitch, and not how loud they are said, which is much of what emotion sounds like. What is
followed is relative, as the pitch's contour is: a frame becomes as much louder than the stream has been so far as the
frame that was heard was. How loud somebody is, or how near to a microphone, is not told.
"""

import math
from collections import deque

import torch
from torch import Tensor

SILENCE_DB = -70.0  # of full scale: a frame below is no speech, and neither is one
BELOW_DB = 30.0  # so far under the mean
MEMORY = 250  # frames of speech over which it is taken
FORGOTTEN = 25  # frames in a row that are quieter than speech, and no silence: it was something else that was loud
NEARER = 0.4  # share of the way to what is wanted that a frame goes: what changes at once sounds like pumping


class Level:
    """How loud speech is, in decibels: a frame, smoothed over two, above the mean of the speech so far."""

    def __init__(self) -> None:
        self._mean, self._former = 0.0, 0.0
        self.count = 0  # frames of speech so far
        self._quieter = 0  # frames in a row

    def above(self, power: float) -> float | None:
        """Take the mean square of the next frame; return how far above the mean it is, None where it is no speech."""
        if not math.isfinite(power):
            return None
        level = 10.0 * math.log10(max(1e-12, (power + self._former) / 2))
        self._former = power
        if level < SILENCE_DB:
            return None
        if self.count and level < self._mean - BELOW_DB:
            self._quieter += 1
            if self._quieter == FORGOTTEN:
                self.count = 0
            return None
        self._quieter = 0
        self.count += 1
        self._mean += (level - self._mean) / min(self.count, MEMORY)
        return level - self._mean


class Loudness:
    """The loudness of one stream: `hear` its frames, and let what is spoken `follow` them, a frame each."""

    def __init__(self, most: float) -> None:
        """Frames become louder or quieter by `most` decibels at most."""
        self._most = most
        self._heard, self._spoken = Level(), Level()
        self._waiting: deque[float | None] = deque()
        self._wanted, self._gain = 0.0, 0.0  # decibels, at the end of the frame before

    def hear(self, samples: Tensor) -> None:
        """Take the next frame that was heard, [samples of a frame]."""
        self._waiting.append(self._heard.above(float(samples.square().mean())))

    def follow(self, samples: Tensor) -> Tensor:
        """Map the frame [n] that says the first that was heard and not yet followed to that frame, as loud."""
        heard, spoken = self._waiting.popleft(), self._spoken.above(float(samples.square().mean()))
        apart = 0.0 if heard is None or spoken is None else heard - spoken
        self._wanted += NEARER * (apart - self._wanted)
        room = -20.0 * math.log10(max(1e-6, float(samples.abs().max())))  # what is louder would be clipped
        gain = min(max(self._wanted, -self._most), self._most, max(0.0, room))
        before, self._gain = self._gain, gain
        if before == gain == 0.0:
            return samples
        ramp = torch.linspace(before, gain, len(samples) + 1)[1:]
        return (samples * 10.0 ** (ramp / 20.0)).clamp(-1.0, 1.0)
