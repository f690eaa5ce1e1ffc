"""The pitch contour says how a voice moves, and neither how high it is nor how loud."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.pitch import fundamental_frequency
from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.contour import FRAMES_AT_ONCE, WINDOW, PitchContour, mean_pitch, measure
from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.training.initial import initialise

RATE, FRAME, CODES = 16_000, 640, 32


def glide(first: float, last: float, seconds: float = 2.0) -> Tensor:
    """A voice-like wave with five harmonics whose pitch glides, in hertz."""
    frequency = torch.from_numpy(np.geomspace(first, last, round(seconds * RATE)))
    phase = 2 * torch.pi * (frequency / RATE).cumsum(0)
    return sum(torch.sin(phase * n) / n for n in range(1, 6)).float().unsqueeze(0) * 0.1  # type: ignore[union-attr]


def codes_of(wave: Tensor) -> Tensor:
    contour = PitchContour(CODES, FRAME)
    whole = wave[:, : wave.shape[1] // FRAME * FRAME]
    return contour(whole, contour.initial_state(len(wave)))[0]


def test_a_glide_is_measured_in_hertz() -> None:
    wave = glide(100.0, 300.0)
    octaves, voiced = measure(wave.unfold(1, WINDOW, FRAME))
    assert voiced.all()
    at = (torch.arange(octaves.shape[1]) * FRAME + WINDOW // 2) / wave.shape[1]
    torch.testing.assert_close(octaves[0], np.log2(100.0) + at * np.log2(3.0), atol=0.03, rtol=0)


def test_a_voice_an_octave_higher_or_ten_times_as_loud_has_the_same_codes() -> None:
    low, high = glide(90.0, 150.0), glide(180.0, 300.0)
    assert int((codes_of(low) - codes_of(high)).abs().max()) <= 1  # a step is 0.07 octaves, and both are rounded
    assert torch.equal(codes_of(low), codes_of(10 * low))


def test_a_rising_voice_has_rising_codes_and_a_steady_one_the_middle() -> None:
    rising = codes_of(glide(120.0, 220.0))[0, 2:]
    assert (rising.diff() >= 0).all()
    assert rising[-1] > rising[0] + 4
    assert set(codes_of(glide(150.0, 150.0))[0, 2:].tolist()) == {CODES // 2}


def test_beside_what_is_usual_of_somebody_the_whole_of_an_utterance_may_be_high() -> None:
    contour, wave = PitchContour(CODES, FRAME), glide(200.0, 200.0, 0.8)
    steady = contour(wave, contour.initial_state(1))[0][0, 2:]
    assert set(steady.tolist()) == {CODES // 2}
    for usual, codes in ((200.0, CODES // 2), (100.0, CODES - 1), (400.0, 1), (200.0 * 2**-0.4, CODES // 2 + 6)):
        heard = contour(wave, contour.initial_state(1, float(np.log2(usual))))[0][0, 2:]
        assert abs(int(heard[0]) - codes) <= 1
        assert int((heard - heard[0]).abs().max()) <= 3, "it moves on slowly, with what is heard"


def test_the_mean_of_a_wave_is_that_of_its_frames_however_long_it_is() -> None:
    wave = glide(100.0, 300.0, 2.5 * FRAMES_AT_ONCE * FRAME / RATE)[0]
    octaves, voiced = mean_pitch(wave, FRAME)
    assert voiced == pytest.approx(len(wave) / FRAME, abs=2)
    assert octaves == pytest.approx(np.log2(100.0 * 3**0.5), abs=0.01)
    whole, own = measure(torch.nn.functional.pad(wave, (WINDOW - FRAME, 0)).unfold(0, WINDOW, FRAME))
    assert octaves == pytest.approx(float(whole[own].mean()), abs=1e-4)
    assert mean_pitch(torch.zeros(0), FRAME) == mean_pitch(torch.zeros(5_000), FRAME) == (0.0, 0)


def test_silence_and_noise_have_no_pitch() -> None:
    assert not codes_of(torch.zeros(1, 10 * FRAME)).any()
    noise = torch.randn(1, 50 * FRAME, generator=torch.Generator().manual_seed(0))
    assert (codes_of(noise) == 0).float().mean() > 0.9


def test_speech_moves_as_the_auditors_pitch_does(waves: list[np.ndarray]) -> None:
    """Of frames that both hear a pitch in, logarithms correlate: 0.85 on the sample's voices, noisier on others'."""
    correlations = []
    for wave in waves[:4]:
        codes = codes_of(torch.from_numpy(wave).unsqueeze(0))[0].numpy()
        middles = ((np.arange(len(codes)) + 1) * FRAME - WINDOW // 2) // 160
        heard = fundamental_frequency(wave)[middles]
        both = np.isfinite(heard) & (codes > 0)
        correlations.append(np.corrcoef(codes[both], np.log2(heard[both]))[0, 1])
    assert np.mean(correlations) > 0.7


def test_streams_of_one_batch_have_contours_of_their_own() -> None:
    contour = PitchContour(CODES, FRAME)
    waves = torch.cat([glide(100.0, 200.0), glide(250.0, 180.0)])
    whole, _ = contour(waves, contour.initial_state(2))
    state, parts = contour.initial_state(2), []
    for frame in waves.split(FRAME, dim=1):
        codes, state = contour(frame, state)
        parts.append(codes)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(codes_of(waves[1:]), whole[1:])


def test_an_odd_number_of_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="an even number of codes"):
        PitchContour(7, FRAME)
    with pytest.raises(ValueError, match="frames of 1280 samples"):
        PitchContour(CODES, 1280)


def test_what_was_said_and_its_pitch_are_embedded_apart() -> None:
    lm = AcousticLM(replace(SMALL.acoustic_lm, content_codes=16, slow_layers=1, fast_layers=1), content_head=True)
    initialise(lm, 0)
    first, second = lm.embed_content(torch.tensor([3 * 32 + 5, 9 * 32 + 5]))
    torch.testing.assert_close(first - second, lm.embedding.weight[3] - lm.embedding.weight[9])
    assert lm.config.whole_content_codes == 16 * 32
