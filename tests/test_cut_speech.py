"""Cutting long recordings: at the pauses, into pieces of a few seconds, without losing a sample before the rest."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

RATE = 16_000


@pytest.fixture(scope="module")
def script(sample_script: Callable[[str], ModuleType]) -> ModuleType:
    return sample_script("cut_speech")


def noise_with_pauses(seconds: float, pauses: list[float]) -> np.ndarray:
    wave = np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    for pause in pauses:
        wave[round((pause - 0.1) * RATE) : round((pause + 0.1) * RATE)] = 0.0
    return wave


def test_pieces_end_in_the_pauses_and_make_up_the_whole(script: ModuleType) -> None:
    wave = noise_with_pauses(13.0, [4.0, 9.0])
    pieces = list(script.cut(wave))
    assert [round(len(piece) / RATE) for piece in pieces] == [4, 5, 4]
    assert np.array_equal(np.concatenate(pieces), wave)


@pytest.mark.parametrize("seconds", [1.5, 6.0, 60.0])
def test_pieces_are_as_long_as_promised(script: ModuleType, seconds: float) -> None:
    pieces = list(script.cut(noise_with_pauses(seconds, [])))
    assert all(len(piece) <= script.LONGEST * RATE for piece in pieces)
    assert all(len(piece) >= script.SHORTEST * RATE for piece in pieces[:-1])


def test_a_rest_of_less_than_a_second_is_left_out(script: ModuleType) -> None:
    assert list(script.cut(np.ones(RATE // 2, np.float32))) == []
