"""Resampling a live stream with a delay of about a millisecond.

soxr, which the rest of the project uses, works in blocks: its good stream qualities hold 37 ms back at 48 kHz, and a
call passes two resamplers. A polyphase filter of finite length holds back half of its length and nothing more.
"""

from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, kaiserord, upfirdn

Wave = NDArray[np.float32]

STOPBAND_DECIBELS = 70.0
TRANSITION = 0.2  # of the lower rate's half, below it: 16 kHz keeps all up to 6.4 kHz and nothing from 8 kHz on


class StreamResampler:
    """Turns a stream at one rate (hertz) into another, aligned: output sample j is the source at j / target seconds.

    `delay` (seconds) is how far the output lags at most. A stream of n samples gives ceil(n * target / source) in all.
    """

    def __init__(self, source: int, target: int) -> None:
        common = gcd(source, target)
        self.up, self.down = target // common, source // common
        self.taps, self.half = lowpass(self.up, self.down) if source != target else (np.ones(1, np.float32), 0)
        self.delay = (self.half + 1) / source if source != target else 0.0
        # The buffer starts `start` samples into the source; upfirdn's output falls on the target's grid only where
        # `half - start` is a multiple of `down`. Before the stream there is silence.
        self.start = self.half % self.down - self.down * (self.half // self.down + 1)
        self.buffer = np.zeros(-self.start, np.float32)
        self.taken = 0
        self.given = 0

    def push(self, samples: Wave) -> Wave:
        """Take samples [n] and return those [m] that no later sample will change."""
        self.taken += len(samples)
        if self.up == self.down:
            self.given += len(samples)
            return samples
        self.buffer = np.concatenate([self.buffer, samples])
        # Output j needs the source up to j * down / up + half.
        ready = ((self.taken - self.half - 1) * self.up) // self.down + 1
        return self._emit(ready)

    def finish(self) -> Wave:
        """Return the rest of the stream."""
        if self.up == self.down:
            return np.zeros(0, np.float32)
        self.buffer = np.concatenate([self.buffer, np.zeros(self.half + 1, np.float32)])
        return self._emit(-(-self.taken * self.up // self.down))

    def _emit(self, ready: int) -> Wave:
        if ready <= self.given:
            return np.zeros(0, np.float32)
        first = (self.half - self.start) * self.up // self.down  # where upfirdn's output holds output 0
        filtered = upfirdn(self.taps, self.buffer, self.up, self.down)
        output = filtered[first + self.given : first + ready].astype(np.float32)
        self.given = ready
        # What the next output needs no more goes, in whole steps of `down`.
        unneeded = (ready * self.down) // self.up - self.half - self.start
        dropped = max(0, unneeded // self.down * self.down)
        self.buffer = self.buffer[dropped:]
        self.start += dropped
        return output


@lru_cache(maxsize=32)
def lowpass(up: int, down: int) -> tuple[NDArray[np.float32], int]:
    """Return the linear-phase filter for up/down at `up` times the source rate, and half its length in source samples.

    A Kaiser window's (scipy's kaiserord), centred on a multiple of `up`, so that no phase is off by a fraction.
    """
    widest = max(up, down)
    count, beta = kaiserord(STOPBAND_DECIBELS, TRANSITION / widest)
    half = -(-count // (2 * up))
    taps = firwin(2 * half * up + 1, (1.0 - TRANSITION / 2) / widest, window=("kaiser", beta)) * up
    return taps.astype(np.float32), half
