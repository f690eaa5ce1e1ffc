"""A source of pulses: its pitch is heard, its power is one, and a stream is what the whole is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.contour import WINDOW, measure
from models.streamvoiceanon.harmonic import HarmonicGenerator, minimum_phase, pulse_train
from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.training.audio import collate_waves
from models.streamvoiceanon.training.codec import CodecTask, CodecTaskConfig, around_pieces
from models.streamvoiceanon.training.initial import initialise

RATE = 16_000
WIDTH = 32


@pytest.fixture
def head() -> HarmonicGenerator:
    generator = HarmonicGenerator(WIDTH, SMALL.frames.hop, SpectralConfig(depth=1, pulses=True))
    initialise(generator, 0)
    return generator.eval()


def features(frames: int) -> Tensor:
    return torch.randn(1, frames, WIDTH, generator=torch.Generator().manual_seed(0))


def test_pulses_have_unit_power_and_every_harmonic_below_the_top() -> None:
    cycles = torch.tensor([[125.0 / RATE]], dtype=torch.float64)
    turns = (cycles.unsqueeze(2) * torch.arange(RATE)) % 1.0
    pulses = pulse_train(turns.float(), cycles.float())[0, 0]
    assert float(pulses.square().mean()) == pytest.approx(1.0, abs=0.01)
    spectrum = torch.fft.rfft(pulses).abs() / RATE
    harmonics = spectrum[125::125]
    assert float(harmonics[:60].std() / harmonics[:60].mean()) < 0.01
    assert float(spectrum[7_700:].max()) < 1e-3 * float(harmonics[0])


def test_a_filter_of_minimum_phase_has_its_magnitude_and_answers_at_once() -> None:
    log_magnitude = torch.randn(321, generator=torch.Generator().manual_seed(0)).cumsum(0) * 0.02
    spectrum = minimum_phase(log_magnitude)
    torch.testing.assert_close(spectrum.abs().log(), log_magnitude, atol=1e-3, rtol=0)
    answer = torch.fft.irfft(spectrum).square()
    assert float(answer[:64].sum() / answer.sum()) > 0.95


@pytest.mark.parametrize("hertz", [90.0, 160.0, 310.0])
def test_the_pitch_that_is_asked_for_is_heard(head: HarmonicGenerator, hertz: float) -> None:
    torch.nn.init.zeros_(head.out.weight)
    torch.nn.init.constant_(head.out.bias[: len(head.out.bias) // 2], -2.0)
    torch.nn.init.constant_(head.out.bias[len(head.out.bias) // 2 :], -8.0)  # hardly any noise
    with torch.inference_mode():
        x, state = head.shape(features(50), head.initial_state(1))
        octaves = torch.full(x.shape[:2], float(np.log2(hertz)))
        wave, _ = head.speak(x, octaves, torch.ones_like(octaves, dtype=torch.bool), state)
    heard, voiced = measure(wave[:, 1_000:].unfold(1, WINDOW, 640))
    assert voiced.all()
    torch.testing.assert_close(heard, torch.full_like(heard, float(np.log2(hertz))), atol=0.01, rtol=0)


def test_a_stream_gives_the_samples_of_the_whole_and_pauses_in_a_batch(head: HarmonicGenerator) -> None:
    x = features(40)
    with torch.inference_mode():
        whole, _ = head(x, head.initial_state(1))
        state, parts = head.initial_state(1), []
        for part in x.split(2, dim=1):
            samples, state = head(part, state)
            parts.append(samples)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


def test_training_cuts_what_surrounds_each_piece() -> None:
    samples = torch.arange(3_200.0).unsqueeze(0)
    around = around_pieces(samples, hop=160, window=640, pieces=20)
    assert around.shape == (1, 20, WINDOW)
    assert float(around[0, 5].median()) == pytest.approx(5 * 160 + 320, abs=1)


def test_the_codec_learns_to_tell_the_pitch_that_it_speaks_at(waves: list[np.ndarray]) -> None:
    config = replace(SMALL.codec, depths=(1, 1), widths=(16, 32), spectral=SpectralConfig(depth=1, pulses=True))
    codec = Codec(config, SMALL.frames)
    initialise(codec, 0)
    task = CodecTask(codec, SMALL.frames, CodecTaskConfig(adversarial_weight=0.0))
    batch = collate_waves([{"wave": wave[4_000:16_800]} for wave in waves[:2]], SMALL.frames.samples)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    told = []
    for _ in range(40):
        optimizer.zero_grad()
        figures = task.losses("codec", batch, torch.Generator())
        figures["total"].backward()
        optimizer.step()
        told.append({name: float(value) for name, value in figures.items()})
    for name in ("pitch", "voicing", "mel"):
        assert told[-1][name] < 0.8 * told[0][name]


def test_a_source_of_pulses_needs_its_rate() -> None:
    frames = replace(SMALL.frames, sample_rate=22_050)
    with pytest.raises(ValueError, match="a source of pulses needs 16 kHz"):
        Codec(SMALL.codec, frames)
