"""Perturbation: another voice at the same moments."""

import numpy as np
import pytest

from models.pitch import fundamental_frequency
from models.streamvoiceanon.training.perturb import (
    add_noise,
    add_room,
    change_response,
    perturb,
    shift_tract,
    shift_voice,
)

RATE = 16_000


def vowel(pitch: float, seconds: float = 1.0) -> np.ndarray:
    """A buzz at `pitch` that begins and ends in silence."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 20))
    return (0.1 * wave * (np.abs(time - seconds / 2) < 0.3 * seconds)).astype(np.float32)


def test_a_perturbed_wave_is_as_long_and_follows_from_what_is_drawn() -> None:
    wave = vowel(120.0)
    made = [perturb(wave, RATE, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(one.shape == wave.shape and one.dtype == np.float32 for one in made)
    assert all(np.abs(one).max() <= 1.0 for one in made)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert not perturb(np.zeros(800, np.float32), RATE, np.random.default_rng(0)).any()


@pytest.mark.parametrize("ratio", [0.8, 1.25])
def test_a_shifted_voice_is_higher_by_the_ratio_and_speaks_when_it_spoke(ratio: float) -> None:
    wave = vowel(150.0)
    shifted = shift_voice(wave, RATE, ratio)
    assert np.median(voiced(shifted)) == pytest.approx(150.0 * ratio, rel=0.03)
    loud = np.flatnonzero(np.abs(shifted) > 0.05)
    assert loud[0] / RATE == pytest.approx(0.2, abs=0.03)
    assert loud[-1] / RATE == pytest.approx(0.8, abs=0.03)


def test_a_shifted_tract_keeps_the_pitch() -> None:
    wave = vowel(150.0)
    shifted = shift_tract(wave, RATE, 0.8)
    assert np.median(voiced(shifted)) == pytest.approx(150.0, rel=0.03)
    assert np.abs(shifted - wave).max() > 0.05


def test_what_a_room_adds_comes_after_the_direct_sound() -> None:
    click = np.zeros(RATE, np.float32)
    click[4_000] = 0.5
    heard = add_room(click, RATE, np.random.default_rng(0))
    assert np.abs(heard[:4_000]).max() < 1e-6
    assert heard[4_000] == pytest.approx(0.5, abs=1e-6)
    assert np.square(heard[4_001:6_000]).sum() > 4 * np.square(heard[6_000:]).sum() > 0


def test_noise_and_response_stay_in_their_bounds() -> None:
    random = np.random.default_rng(0)
    wave = random.standard_normal(RATE).astype(np.float32) * 0.1
    for seed in range(5):
        noise = add_noise(wave, np.random.default_rng(seed)) - wave
        assert 9.9 < 10 * np.log10(np.square(wave).mean() / np.square(noise).mean()) < 40.1
        changed = change_response(wave, np.random.default_rng(seed))
        gain = 20 * np.log10(np.abs(np.fft.rfft(changed)) / np.abs(np.fft.rfft(wave)))
        assert np.abs(gain).max() < 6.1
        assert np.ptp(gain) > 1.0


def voiced(wave: np.ndarray) -> np.ndarray:
    pitch = np.asarray(fundamental_frequency(wave))
    return pitch[pitch > 0]
