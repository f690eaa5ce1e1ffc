"""The mel spectrogram that Resemblyzer's and DNSMOS's networks were trained on: librosa's, without librosa.

Both packages call librosa, which compiles some of its functions with numba when they are first used: twenty seconds in
every process of a fresh installation, before the first utterance is heard.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
HOP = 160  # samples, 10 ms


def mel_spectrogram(wave: NDArray[np.float32], window: int, bands: int) -> NDArray[np.float32]:
    """Return the power of a wave, float32 [samples] at 16 kHz, in mel bands: [1 + samples // 160, bands].

    `window` is the length in samples of the Hann window and of the Fourier transform. Frames are centred on every 160th
    sample, with zeros beyond the ends.
    """
    padded = np.pad(wave.astype(np.float32), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window, dtype=np.float32) / window)
    power = np.square(np.abs(np.fft.rfft(frames * hann)))
    return (power @ _filters(window, bands)).astype(np.float32)


@cache
def _filters(window: int, bands: int) -> NDArray[np.float32]:
    """Return triangles [frequencies, bands], evenly spread on Slaney's mel scale up to 8 kHz, each of area 1 in hertz.

    M. Slaney, Auditory Toolbox, Interval Research technical report 1998-010.
    """
    edges = _slaney_hertz(np.linspace(0.0, _slaney_mel(SAMPLE_RATE / 2), bands + 2))
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    frequencies = np.fft.rfftfreq(window, 1 / SAMPLE_RATE)[:, None]
    rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
    return (np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low)).astype(np.float32)


LINEAR_STEP = 200 / 3  # hertz a mel, below 1 kHz
LOG_STEP = np.log(6.4) / 27  # of the logarithm of frequency a mel, above
KNEE = 1_000.0


def _slaney_mel(hertz: float) -> float:
    return hertz / LINEAR_STEP if hertz < KNEE else KNEE / LINEAR_STEP + np.log(hertz / KNEE) / LOG_STEP


def _slaney_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = np.maximum(mel - KNEE / LINEAR_STEP, 0.0)
    return np.where(above > 0, KNEE * np.exp(LOG_STEP * above), LINEAR_STEP * mel)
