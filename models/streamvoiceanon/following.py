"""Following how something is said: what is spoken moves as what is heard does, each beside its own mean so far.

That is relative, as the pitch's contour is: how loud or sharp somebody is, or how near to a microphone, is not told.
"""

import math
from collections import deque
from typing import Protocol

from torch import Tensor

SILENCE_DB = -70.0  # of full scale: a frame below is no speech, and neither is one
BELOW_DB = 30.0  # so far under the mean
MEMORY = 250  # frames of speech over which it is taken
FORGOTTEN = 25  # frames in a row that are quieter than speech, and no silence: it was something else that was loud


class Meter(Protocol):
    """Something that speech has more or less of, in decibels."""

    def above(self, samples: Tensor) -> float | None:
        """Take the next frame [n]; return how far above the mean so far it is, None where it is no speech."""


class Level:
    """How loud speech is, in decibels: a frame, smoothed over two, above the mean of the speech so far."""

    def __init__(self) -> None:
        self._mean, self._former = 0.0, 0.0
        self.count = 0  # frames of speech so far
        self._quieter = 0  # frames in a row

    def above(self, samples: Tensor) -> float | None:
        """Take the next frame [n]; return how far above the mean it is, None where it is no speech."""
        power = float(samples.square().mean())
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


class Follower:
    """One stream: `hear` its frames, and learn from `wanted` how far each that is spoken has to move."""

    def __init__(self, heard: Meter, spoken: Meter, nearer: float) -> None:
        """`nearer` is the share of the way to what is wanted that a frame goes."""
        self._heard, self._spoken, self._nearer = heard, spoken, nearer
        self._waiting: deque[float | None] = deque()
        self._wanted = 0.0  # decibels

    def hear(self, samples: Tensor) -> None:
        """Take the next frame that was heard, [samples of a frame]."""
        self._waiting.append(self._heard.above(samples))

    def wanted(self, samples: Tensor) -> float:
        """Take the frame [n] that says the first that was heard and not yet followed; return decibels."""
        heard, spoken = self._waiting.popleft(), self._spoken.above(samples)
        apart = 0.0 if heard is None or spoken is None else heard - spoken
        self._wanted += self._nearer * (apart - self._wanted)
        return self._wanted
