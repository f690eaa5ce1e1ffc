"""The McAdams anonymizer on real audio of the sample corpus."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mcadams import COEFFICIENT_RANGE, McAdams, McAdamsVoice, linear_prediction, polynomial_roots


@pytest.fixture(scope="module")
def wave(sample_wave: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(sample_wave)


def test_a_coefficient_of_one_gives_the_wave_back(wave: torch.Tensor) -> None:
    (same,) = McAdams().anonymize([wave], [McAdamsVoice(1.0)])
    assert torch.allclose(same, wave, atol=1e-6)  # float32 rounding


def test_another_coefficient_moves_the_formants_and_keeps_length_and_loudness(wave: torch.Tensor) -> None:
    (moved,) = McAdams().anonymize([wave], [McAdamsVoice(0.7)])
    assert len(moved) == len(wave)
    assert 0.5 < moved.square().mean() / wave.square().mean() < 2.0

    def centroid(samples: torch.Tensor) -> float:
        power = torch.stft(samples, 512, window=torch.hann_window(512), return_complex=True).abs().square().sum(dim=1)
        return float((power * torch.arange(257)).sum() / power.sum())

    # Angles below 1 radian grow when raised to 0.7, and most of the energy of speech lies there.
    assert centroid(moved) > 1.1 * centroid(wave)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=12), st.integers(0, 2**32))
def test_a_stream_in_any_chunks_gives_the_offline_samples(sizes: list[int], seed: int) -> None:
    source = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, sum(sizes)).astype(np.float32))
    model = McAdams()
    (offline,) = model.anonymize([source], [McAdamsVoice(0.8)])
    stream = model.open_stream(McAdamsVoice(0.8))
    live = torch.cat([*(stream.push(chunk) for chunk in source.split(sizes)), stream.finish()])
    assert len(live) == len(source)
    assert torch.allclose(live, offline, atol=1e-6)


def test_a_stream_lags_by_no_more_than_it_says(wave: torch.Tensor) -> None:
    stream = McAdams().open_stream(McAdamsVoice(0.8))
    given_back = 0
    for taken, chunk in enumerate(wave[:8000].split(37)):
        given_back += len(stream.push(chunk))
        pushed = min(8000, (taken + 1) * 37)
        assert pushed - given_back <= stream.latency * 16_000


def test_a_closed_stream_says_so(wave: torch.Tensor) -> None:
    stream = McAdams().open_stream(McAdamsVoice(0.8))
    stream.push(wave[:100])
    stream.finish()
    with pytest.raises(ValueError, match="closed already"):
        stream.finish()
    with pytest.raises(ValueError, match="open a new one"):
        stream.push(wave[:100])


def test_voices_are_drawn_from_their_seed_over_the_published_range() -> None:
    model = McAdams()
    coefficients = np.array([model.draw_voice(seed).coefficient for seed in range(500)])
    assert model.draw_voice(7) == model.draw_voice(7)
    low, high = COEFFICIENT_RANGE
    assert coefficients.min() >= low
    assert coefficients.max() <= high
    # The mean of 500 uniform draws has a standard error of 0.005; four of them make a false alarm unlikely.
    assert abs(coefficients.mean() - (low + high) / 2) < 0.02


def test_silence_stays_silence() -> None:
    (silence,) = McAdams().anonymize([torch.zeros(5000)], [McAdamsVoice(0.6)])
    assert torch.equal(silence, torch.zeros(5000))


def test_linear_prediction_finds_the_resonance_that_made_the_signal() -> None:
    pole = 0.98 * np.exp(1j * 0.6)
    signal = np.zeros(320)
    past = [0.0, 0.0]
    for index in range(320):
        value = (index == 0) + 2 * pole.real * past[0] - abs(pole) ** 2 * past[1]
        signal[index], past = value, [value, past[0]]
    roots = polynomial_roots(linear_prediction(signal[None], 2))[0]
    # The autocorrelation method sees a truncated response, hence the tolerance.
    assert np.abs(np.abs(np.angle(roots)) - 0.6).max() < 0.01
    assert np.abs(np.abs(roots) - 0.98).max() < 0.01
