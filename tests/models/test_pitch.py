"""The fundamental frequency is found where there is one, and only there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.pitch import HOP, SAMPLE_RATE, fundamental_frequency


def tone(frequency: np.ndarray, harmonics: int = 8) -> np.ndarray:
    """A voice-like tone whose k-th harmonic has amplitude 1 / k, following a frequency in hertz, one per sample."""
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, harmonics + 1)).astype(np.float32)


@pytest.mark.parametrize(("start", "end"), [(80.0, 160.0), (300.0, 180.0), (110.0, 390.0)])
def test_a_glide_is_followed_within_one_per_cent(start: float, end: float) -> None:
    truth = np.linspace(start, end, 2 * SAMPLE_RATE)
    found = fundamental_frequency(tone(truth))[3:-3]  # the ends are half silence
    expected = truth[::HOP][3 : 3 + len(found)]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0.01)


@settings(max_examples=30, deadline=None)
@given(frequency=st.floats(62.0, 395.0), loudness=st.floats(1e-3, 1.0))
def test_any_steady_tone_of_the_range_is_found_however_loud(frequency: float, loudness: float) -> None:
    found = fundamental_frequency(np.float32(loudness) * tone(np.full(SAMPLE_RATE // 2, frequency)))[5:-5]
    np.testing.assert_allclose(found, frequency, rtol=0.005)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    assert np.isnan(fundamental_frequency(noise)).mean() > 0.95
    assert np.isnan(fundamental_frequency(np.zeros(SAMPLE_RATE, np.float32))).all()


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 5_000])
def test_there_is_a_frame_every_ten_milliseconds(samples: int) -> None:
    contour = fundamental_frequency(np.zeros(samples, np.float32))
    assert contour.shape == (1 + samples // HOP,)
    assert contour.dtype == np.float32


def test_it_agrees_with_librosa_pyin_on_speech(waves: list[np.ndarray]) -> None:
    import librosa

    for wave in waves[:2]:
        reference, voiced, _ = librosa.pyin(wave, fmin=60, fmax=400, sr=SAMPLE_RATE, hop_length=HOP, frame_length=1024)
        found = fundamental_frequency(wave)
        length = min(len(found), len(reference))
        both = voiced[:length] & np.isfinite(found[:length])
        assert both.sum() > 0.7 * voiced.sum()
        ratio = found[:length][both] / reference[:length][both]
        assert np.mean(np.abs(np.log2(ratio)) < 1 / 12) > 0.95  # within a semitone
