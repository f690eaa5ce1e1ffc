"""Brightness: what is spoken becomes sharper and softer as what is heard does.

Who is angry presses, and who is sad or calm does not: effort moves energy from low frequencies to high ones. Content
codes hardly tell it. What is followed is relative, as loudness is: a frame becomes as much brighter than the stream has
been so far as the frame that was heard was, so neither the voice nor the microphone is told. Since both say the same,
what sounds themselves differ by is in either and falls out.
"""

import functools
import math
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.streamvoiceanon.loudness import MEMORY, Level

LOWEST, CROSSOVER, HIGHEST = 100.0, 1_000.0, 5_000.0  # hertz: what is compared lies between them
STEPS = 4  # in which the filter changes within a frame
NEARER = 0.15  # share of the way to what is wanted that a frame goes: effort lasts longer than a sound


class Tilt:
    """How bright speech is, in decibels of what is above CROSSOVER beside what is below: a frame, above the mean of the
    speech so far."""

    def __init__(self, sample_rate: int) -> None:
        self._mean, self._level = 0.0, Level()
        self._rate, self._window = sample_rate, np.zeros(0)
        self._low, self._high = slice(0), slice(0)  # of the spectrum

    def above(self, samples: Tensor) -> float | None:
        """Take the next frame [n]; return how far above the mean it is, None where it is no speech."""
        if self._level.above(float(samples.square().mean())) is None:
            return None
        if len(samples) != len(self._window):
            self._prepare(len(samples))
        power = np.abs(np.fft.rfft(samples.double().numpy() * self._window)) ** 2
        low, high = power[self._low].sum(), power[self._high].sum()
        tilt = 10.0 * math.log10((high + 1e-9) / (low + 1e-9))
        self._mean += (tilt - self._mean) / min(self._level.count, MEMORY)
        return tilt - self._mean

    def _prepare(self, length: int) -> None:
        """Make the window, and find what is compared in the spectrum, of frames of this length."""
        self._window = np.hanning(length)
        hertz = np.fft.rfftfreq(length, 1.0 / self._rate)
        first, middle, last = np.searchsorted(hertz, [LOWEST + 1e-6, CROSSOVER, HIGHEST])
        self._low, self._high = slice(first, middle), slice(middle, last)


class Brightness:
    """The brightness of one stream: `hear` its frames, and let what is spoken `follow` them, a frame each."""

    def __init__(self, most: float, sample_rate: int) -> None:
        """What is above and what is below the crossover become `most` decibels further apart, or nearer, at most."""
        self._most = most
        self._heard, self._spoken = Tilt(sample_rate), Tilt(sample_rate)
        self._waiting: deque[float | None] = deque()
        self._wanted, self._gain = 0.0, 0.0  # decibels, at the end of the frame before
        self._rate = sample_rate
        self._past: NDArray[np.float64] = np.zeros(len(shelf(0, sample_rate)) - 1)  # samples

    def hear(self, samples: Tensor) -> None:
        """Take the next frame that was heard, [samples of a frame]."""
        self._waiting.append(self._heard.above(samples))

    def follow(self, samples: Tensor) -> Tensor:
        """Map the frame [n] that says the first that was heard and not yet followed to that frame, as bright."""
        heard, spoken = self._waiting.popleft(), self._spoken.above(samples)
        apart = 0.0 if heard is None or spoken is None else heard - spoken
        self._wanted += NEARER * (apart - self._wanted)
        former, self._gain = self._gain, min(max(self._wanted, -self._most), self._most)
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
    impulse response, which is over after four milliseconds.
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
