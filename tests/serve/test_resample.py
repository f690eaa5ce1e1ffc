"""The stream resampler: aligned, exact in length, the same in any chunking, and a millisecond late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_server import tone

from serve.resample import StreamResampler

RATES = [(48_000, 16_000), (16_000, 48_000), (44_100, 16_000), (16_000, 44_100), (8_000, 16_000), (11_025, 16_000)]


def in_chunks(source: int, target: int, wave: np.ndarray, sizes: list[int]) -> np.ndarray:
    resampler, outputs, at = StreamResampler(source, target), [], 0
    for size in sizes:
        outputs.append(resampler.push(wave[at : at + size]))
        at += size
    outputs += [resampler.push(wave[at:]), resampler.finish()]
    return np.concatenate(outputs)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_tone_stays_where_it_was(source: int, target: int) -> None:
    frequency = 0.35 * min(source, target)
    output = in_chunks(source, target, tone(frequency, 0.5, source), [])
    expected = tone(frequency, len(output) / target + 0.01, target)[: len(output)]
    inner = slice(target // 50, -target // 50)
    assert np.abs(output - expected)[inner].max() < 1e-3 * 0.3  # the filter's ripple: -70 dB


@pytest.mark.parametrize(("source", "target"), [(48_000, 16_000), (44_100, 16_000)])
def test_what_the_lower_rate_cannot_hold_is_gone(source: int, target: int) -> None:
    output = in_chunks(source, target, tone(0.55 * target, 0.5, source), [])
    assert np.abs(output[target // 50 : -target // 50]).max() < 1e-3


@given(st.sampled_from(RATES), st.lists(st.integers(0, 900), max_size=12), st.integers(0, 3_000))
def test_chunking_changes_nothing(rates: tuple[int, int], sizes: list[int], length: int) -> None:
    wave = np.random.default_rng(0).standard_normal(length).astype(np.float32)
    output = in_chunks(*rates, wave, sizes)
    assert len(output) == -(-length * rates[1] // rates[0])
    np.testing.assert_allclose(output, in_chunks(*rates, wave, []), atol=1e-5)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_the_delay_is_as_promised_and_below_three_milliseconds(source: int, target: int) -> None:
    resampler = StreamResampler(source, target)
    lag = 0.0
    for _ in range(200):
        resampler.push(np.zeros(97, np.float32))
        lag = max(lag, resampler.taken / source - resampler.given / target)
    assert lag <= resampler.delay < 0.003


def test_equal_rates_pass_through() -> None:
    wave = tone(440, 0.1)
    assert in_chunks(16_000, 16_000, wave, [7, 300]).tolist() == wave.tolist()
