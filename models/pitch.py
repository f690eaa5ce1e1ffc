"""Fundamental frequency of speech, for comparing the intonation of a source with that of its anonymized copy.

YIN (de Cheveigné and Kawahara, J. Acoust. Soc. Am. 111, 2002), all frames of a wave at once: difference function by
FFT, cumulative mean normalisation, first dip under the threshold, parabolic interpolation. `librosa.yin` gives a
frequency in every frame, voiced or not; `librosa.pyin` decides on voicing but takes longer than the speech lasts.
"""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
HOP = 160  # samples, 10 ms
LOWEST = 60.0  # Hz
HIGHEST = 400.0  # Hz
WINDOW = 512  # samples that are compared with their delayed copy, 32 ms
THRESHOLD = 0.25  # aperiodicity under which a frame is voiced
SILENCE = 1e-4  # of the loudest frame's energy (-40 dB): quieter frames are unvoiced

Wave = NDArray[np.float32]


def fundamental_frequency(wave: Wave) -> NDArray[np.float32]:
    """Return F0 in hertz, [frames], of a wave, float32 [samples] at 16 kHz; NaN where it is unvoiced.

    Frame k is centred on sample 160 k; a wave of n samples has 1 + n // 160 frames.
    """
    shortest, longest = int(SAMPLE_RATE / HIGHEST), int(np.ceil(SAMPLE_RATE / LOWEST))
    span = WINDOW + longest
    padded = np.pad(wave.astype(np.float64), (span // 2, span - span // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, span)[::HOP]  # (F, span)

    difference = _difference(frames, longest)  # (F, longest + 1)
    lags = np.arange(1, longest + 1)
    running = np.cumsum(difference[:, 1:], axis=1)
    normalised = np.ones_like(difference)
    np.divide(difference[:, 1:] * lags, running, out=normalised[:, 1:], where=running > 0)

    candidates = normalised[:, shortest:longest]
    dip = (candidates < THRESHOLD) & (candidates <= normalised[:, shortest + 1 : longest + 1])
    lag = shortest + dip.argmax(axis=1)
    energy = np.square(frames[:, :WINDOW]).sum(axis=1)
    voiced = dip.any(axis=1) & (energy > SILENCE * energy.max(initial=0.0))
    return np.where(voiced, SAMPLE_RATE / _interpolate(normalised, lag), np.nan).astype(np.float32)


def _difference(frames: NDArray[np.float64], longest: int) -> NDArray[np.float64]:
    """Return d(lag), [F, longest + 1]: the squared distance of each frame's first window to its copy `lag` later."""
    size = 1 << int(np.ceil(np.log2(frames.shape[1])))
    spectrum = np.fft.rfft(frames, size)
    correlation = np.fft.irfft(spectrum * np.fft.rfft(frames[:, :WINDOW], size).conj(), size)[:, : longest + 1]
    energy = np.cumsum(np.pad(np.square(frames), ((0, 0), (1, 0))), axis=1)
    delayed = energy[:, WINDOW : WINDOW + longest + 1] - energy[:, : longest + 1]
    return np.maximum(delayed[:, :1] + delayed - 2 * correlation, 0.0)


def _interpolate(curve: NDArray[np.float64], lag: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the lag, in fractions of a sample, of the minimum of the parabola through three points of the curve."""
    rows = np.arange(len(curve))
    before, here, after = (curve[rows, lag + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    offset: NDArray[np.float64] = np.divide(before - after, 2 * bend, out=np.zeros_like(here), where=bend > 0)
    return lag + offset
