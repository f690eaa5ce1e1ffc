"""Perturbation: the same words at the same moments, by somebody else, somewhere else.

What is said must come out of a perturbed wave as out of the original; who says it and where must not. Timing is kept to
the sample, so a teacher's frames of the original still fit. Pitch and vocal tract change together by resampling and a
phase vocoder (Laroche & Dolson, 1999), the vocal tract alone by McAdams' coefficient, as in NANSY (Choi et al., 2021,
arXiv 2110.14513); rooms, frequency responses, noise and gain are drawn as augmentations usually are.
"""

import numpy as np
import soxr
import torch
import torchaudio
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from models.mcadams import McAdams, McAdamsVoice

Wave = NDArray[np.float32]

WINDOW, HOP = 512, 128  # samples, of the phase vocoder
SEMITONES = 5.0  # either way
COEFFICIENTS = (0.75, 1.1)  # of McAdams; 1 changes nothing
RESPONSE_POINTS, RESPONSE_DB = 6, 6.0
REVERBERATION = (0.1, 0.5)  # seconds until it is 60 dB down
DIRECT_DB = (0.0, 15.0)  # of the direct sound above all of the reverberation
NOISE_DB = (10.0, 40.0)  # of the speech above the noise
GAIN_DB = (-12.0, 3.0)


def perturb(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """Return a wave [n] as long as the given one [n], changed in ways drawn from `random`; silence stays silence."""
    if not np.any(wave):
        return wave
    changed = wave
    if random.random() < 0.7:
        changed = shift_voice(changed, sample_rate, 2.0 ** (random.uniform(-SEMITONES, SEMITONES) / 12))
    if random.random() < 0.5:
        changed = shift_tract(changed, sample_rate, random.uniform(*COEFFICIENTS))
    if random.random() < 0.3:
        changed = add_room(changed, sample_rate, random)
    if random.random() < 0.5:
        changed = change_response(changed, random)
    if random.random() < 0.5:
        changed = add_noise(changed, random)
    changed = changed * 10 ** (random.uniform(*GAIN_DB) / 20)
    return (changed / max(1.0, float(np.abs(changed).max()))).astype(np.float32)


def shift_voice(wave: Wave, sample_rate: int, ratio: float) -> Wave:
    """Raise pitch and formants by `ratio` and keep the time."""
    count = len(wave)
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(torch.from_numpy(wave), WINDOW, HOP, window=window, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0.0, np.pi * HOP, WINDOW // 2 + 1).unsqueeze(1)
    slower = torchaudio.functional.phase_vocoder(spectrum, 1.0 / ratio, advance)
    stretched = torch.istft(slower, WINDOW, HOP, window=window, length=round(count * ratio)).numpy()
    shifted = soxr.resample(stretched, sample_rate * ratio, sample_rate, quality="MQ")[:count]
    return np.pad(shifted, (0, count - len(shifted)))


def shift_tract(wave: Wave, sample_rate: int, coefficient: float) -> Wave:
    """Move the formants and keep the pitch."""
    return McAdams(sample_rate).anonymize([torch.from_numpy(wave)], [McAdamsVoice(coefficient)])[0].numpy()


def add_room(wave: Wave, sample_rate: int, random: np.random.Generator) -> Wave:
    """Add reverberation that begins after the direct sound: noise that dies away."""
    seconds = random.uniform(*REVERBERATION)
    tail = random.standard_normal(round(seconds * sample_rate))
    tail *= 10 ** (-3.0 * np.arange(len(tail)) / len(tail))
    tail[: round(0.002 * sample_rate)] = 0.0
    tail *= 10 ** (-random.uniform(*DIRECT_DB) / 20) / np.linalg.norm(tail)
    return (wave + fftconvolve(wave, tail)[: len(wave)]).astype(np.float32)


def change_response(wave: Wave, random: np.random.Generator) -> Wave:
    """Filter by a frequency response that wavers by up to RESPONSE_DB between points of a logarithmic scale."""
    spectrum = np.fft.rfft(wave)
    place = np.log2(np.arange(len(spectrum)) * (64.0 / len(spectrum)) + 1.0)  # 0 to 6 octaves
    points = random.uniform(-RESPONSE_DB, RESPONSE_DB, RESPONSE_POINTS)
    decibels = np.interp(place, np.linspace(0.0, place[-1], RESPONSE_POINTS), points)
    return np.fft.irfft(spectrum * 10 ** (decibels / 20), len(wave)).astype(np.float32)


def add_noise(wave: Wave, random: np.random.Generator) -> Wave:
    """Add noise between white and reddish."""
    noise = lfilter([1.0], [1.0, -random.uniform(0.0, 0.95)], random.standard_normal(len(wave)))
    level = np.sqrt(np.mean(np.square(wave)) / np.mean(np.square(noise))) * 10 ** (-random.uniform(*NOISE_DB) / 20)
    return (wave + level * noise).astype(np.float32)
