"""Brightness, or spectral tilt: what is spoken becomes sharper and softer as what is heard does.

Who is angry presses, and who is sad or calm does not: effort moves energy from low frequencies to high ones. Content
codes hardly tell it. Since what is heard and what is spoken say the same, what sounds themselves differ by is in either
and falls out.
"""

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.streamvoiceanon.following import MEMORY, Follower, Level
from models.streamvoiceanon.frontend import FrameConfig

LOWEST, CROSSOVER, HIGHEST = 100.0, 1_000.0, 5_000.0  # hertz: what is compared lies between them
STEPS = 4  # in which the filter changes within a frame
NEARER = 0.15  # share of the way to what is wanted that a frame goes: effort lasts longer than a sound


class Tilt:
    """How bright speech is, in decibels of what is above CROSSOVER beside what is below: a frame, above the mean of the
    speech so far."""

    def __init__(self, frames: FrameConfig) -> None:
        self._mean, self._level = 0.0, Level()
        self._window = np.hanning(frames.samples)
        hertz = np.fft.rfftfreq(frames.samples, 1.0 / frames.sample_rate)
        first, middle, last = np.searchsorted(hertz, [LOWEST + 1e-6, CROSSOVER, HIGHEST])
        self._low, self._high = slice(first, middle), slice(middle, last)  # of the spectrum

    def above(self, samples: Tensor) -> float | None:
        """Take the next frame [n]; return how far above the mean it is, None where it is no speech."""
        if self._level.above(samples) is None:
            return None
        power = np.abs(np.fft.rfft(samples.double().numpy() * self._window)) ** 2
        low, high = power[self._low].sum(), power[self._high].sum()
        tilt = 10.0 * math.log10((high + 1e-9) / (low + 1e-9))
        self._mean += (tilt - self._mean) / min(self._level.count, MEMORY)
        return tilt - self._mean


class Brightness(Follower):
    """The brightness of one stream: `hear` its frames, and let what is spoken `follow` them, a frame each."""

    def __init__(self, most: float, frames: FrameConfig) -> None:
        """What is above and what is below the crossover become `most` decibels further apart, or nearer, at most."""
        super().__init__(Tilt(frames), Tilt(frames), NEARER)
        self._most, self._rate = most, frames.sample_rate
        self._gain = 0.0  # decibels, at the end of the frame before
        self._past: NDArray[np.float64] = np.zeros(len(shelf(0, self._rate)) - 1)  # samples

    def follow(self, samples: Tensor) -> Tensor:
        """Map the frame [n] that says the first that was heard and not yet followed to that frame, as bright."""
        former, self._gain = self._gain, min(max(self.wanted(samples), -self._most), self._most)
        wave, length = np.concatenate([self._past, samples.double().numpy()]), len(samples)
        before, self._past = len(self._past), wave[length:]
        made, size = [], -(-length // STEPS)
        for begin in range(0, length, size):
            end = min(begin + size, length)
            gain = former + (self._gain - former) * end / length
            made.append(np.convolve(wave[begin : end + before], shelf(round(10.0 * gain), self._rate), "valid"))
        return torch.from_numpy(np.concatenate(made)).to(samples.dtype).clamp_(-1.0, 1.0)


@functools.lru_cache(maxsize=1024)
def shelf(tenths: int, sample_rate: int) -> NDArray[np.float64]:
    """Return the taps of a filter that raises what is above the crossover by half of so many tenths of a decibel and
    lowers what is below by the other half; of 0 it changes nothing.

    Bristow-Johnson, "Cookbook formulae for audio equalizer biquad filter coefficients", the high shelf of slope 1: its
    impulse response [taps], which is over after four milliseconds.
    """
    root = 10.0 ** (tenths / 800.0)
    size, angle = root**2, 2.0 * math.pi * CROSSOVER / sample_rate
    more, less = size + 1.0, size - 1.0
    turn, wide = math.cos(angle), root * math.sin(angle) * math.sqrt(2.0)
    over = np.array([more + less * turn + wide, -2.0 * (less + more * turn), more + less * turn - wide])
    under = np.array([more - less * turn + wide, 2.0 * (less - more * turn), more - less * turn - wide])
    taps = round(0.004 * sample_rate)
    turns = np.exp(-1j * np.pi * np.arange(2 * taps + 1) / (2 * taps))
    response = np.polyval(over[::-1], turns) / np.polyval(under[::-1], turns)
    return np.fft.irfft(response)[:taps]
