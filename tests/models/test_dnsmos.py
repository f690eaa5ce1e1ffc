"""DNSMOS hears damage, and scores every clip that it is given."""

import numpy as np
import pytest

from models.quality import SAMPLE_RATE, SCALES, WINDOW, Dnsmos
from models.registry import PROFILES, resolve


@pytest.fixture(scope="module")
def dnsmos() -> Dnsmos:
    return Dnsmos(resolve(PROFILES["embedded"]["quality"]).path)


def test_noise_lowers_every_score(dnsmos: Dnsmos, waves: list[np.ndarray]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, len(waves[0])).astype(np.float32)
    scores = dnsmos.score([waves[0], waves[0] + noise])
    assert set(scores) == set(SCALES)
    for scale, (clean, noisy) in scores.items():
        assert noisy < clean - 0.3, scale
        assert 1 <= noisy < clean <= 5, scale


def test_a_clip_of_one_window_scores_as_in_speechmos(dnsmos: Dnsmos, waves: list[np.ndarray]) -> None:
    from speechmos import dnsmos as published

    wave = np.resize(np.concatenate(waves), WINDOW)
    expected = published.run(wave, SAMPLE_RATE)
    for scale, scores in dnsmos.score([wave]).items():
        assert scores[0] == pytest.approx(expected[SCALES[scale]], abs=1e-3)


def test_a_long_clip_is_heard_to_its_end(dnsmos: Dnsmos, waves: list[np.ndarray]) -> None:
    wave = np.resize(np.concatenate(waves), 2 * WINDOW)
    spoilt = wave.copy()
    spoilt[-WINDOW // 2 :] = 0.2 * np.random.default_rng(0).normal(size=WINDOW // 2)
    clean, damaged = dnsmos.score([wave, spoilt])["overall"]
    assert damaged < clean - 0.1


def test_a_short_clip_scores_as_its_repetition(dnsmos: Dnsmos, waves: list[np.ndarray]) -> None:
    short = waves[0][: 2 * SAMPLE_RATE]
    alone, repeated = dnsmos.score([short, np.resize(short, WINDOW)])["overall"]
    assert alone == repeated


def test_silence_scores_low_overload_is_clipped_and_nothing_has_no_score(dnsmos: Dnsmos) -> None:
    beyond = np.full(SAMPLE_RATE, 1.5, np.float32)
    silent, clipped, empty = dnsmos.score([np.zeros(SAMPLE_RATE, np.float32), beyond, np.zeros(0, np.float32)])[
        "overall"
    ]
    assert np.isfinite([silent, clipped]).all()
    assert silent < 2.5
    assert np.isnan(empty)
