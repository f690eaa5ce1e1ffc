"""A source of pulses: its pitch is a code and is heard, its power is one, and a stream is what the whole is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.contour import WINDOW, measure
from models.streamvoiceanon.harmonic import (
    HIGHEST,
    LOWEST,
    HarmonicGenerator,
    PitchBook,
    minimum_phase,
    pulse_train,
)
from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.state import restart, take
from models.streamvoiceanon.training.audio import collate_waves
from models.streamvoiceanon.training.codec import CodecTask, CodecTaskConfig
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.speaking import around_ends

RATE, FRAME = 16_000, 640
WIDTH, MELS = 32, 2  # mel frames of a frame
TINY = replace(SMALL.codec, depths=(1, 1), widths=(16, 32), spectral=SpectralConfig(depth=1, pulses=True))


@pytest.fixture
def head() -> HarmonicGenerator:
    generator = HarmonicGenerator(WIDTH, SMALL.frames.hop, SpectralConfig(depth=1, pulses=True))
    initialise(generator, 0)
    return generator.eval()


@pytest.fixture
def codec() -> Codec:
    made = Codec(TINY, SMALL.frames)
    initialise(made, 0)
    return made.eval()


def features(frames: int) -> Tensor:
    return torch.randn(1, MELS * frames, WIDTH, generator=torch.Generator().manual_seed(0))


def tone(hertz: float, seconds: float = 1.0) -> Tensor:
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return sum(torch.sin(2 * torch.pi * hertz * n * time) / n for n in range(1, 5)).float()[None] * 0.1  # type: ignore[union-attr]


def test_a_pitch_becomes_a_code_and_the_code_that_pitch() -> None:
    book = PitchBook(4, 256)
    for hertz in (70.0, 120.0, 233.0, 410.0):
        codes = book.hear(tone(hertz).unflatten(1, (-1, FRAME)))
        octaves, voiced = book.octaves(book.values(codes))
        assert voiced.all()
        torch.testing.assert_close(octaves, torch.full_like(octaves, float(np.log2(hertz))), atol=0.015, rtol=0)
    assert not book.hear(torch.zeros(1, 5, FRAME)).any()
    octaves, voiced = book.octaves(book.values(torch.tensor([0, 1, 255])))
    assert voiced.tolist() == [False, True, True]
    torch.testing.assert_close(octaves[1:], torch.tensor([LOWEST, HIGHEST]))


def test_the_first_codebook_of_a_codec_is_the_pitch(codec: Codec) -> None:
    wave = torch.cat([tone(110.0), torch.zeros(1, FRAME * 5), tone(220.0)], dim=1)
    codes, _ = codec.encode(wave, codec.initial_encoder_state(1))
    assert codes.shape == (1, SMALL.codec.codebooks, wave.shape[1] // FRAME)
    low, silent, high = codes[0, 0, 3], codes[0, 0, 27], codes[0, 0, 40]
    assert int(silent) == 0
    assert int(high - low) == pytest.approx(254 / (HIGHEST - LOWEST), abs=2)  # an octave


def test_pulses_have_unit_power_and_every_harmonic_below_the_top() -> None:
    cycles = torch.full((RATE,), 125.0 / RATE, dtype=torch.float64)
    pulses = pulse_train((cycles.cumsum(0) % 1.0).float(), cycles.float())
    assert float(pulses.square().mean()) == pytest.approx(1.0, abs=0.01)
    spectrum = torch.fft.rfft(pulses).abs() / RATE
    harmonics = spectrum[125::125]
    assert float(harmonics[:60].std() / harmonics[:60].mean()) < 0.01
    assert float(spectrum[7_700:].max()) < 1e-3 * float(harmonics[0])


def test_a_filter_of_minimum_phase_has_its_magnitude_and_answers_at_once() -> None:
    log_magnitude = torch.cos(torch.linspace(0.0, 12.0, 321)) + torch.linspace(0.0, -4.0, 321)
    spectrum = minimum_phase(log_magnitude)
    torch.testing.assert_close(spectrum.abs().log(), log_magnitude, atol=0.05, rtol=0)
    answer = torch.fft.irfft(spectrum).square()
    assert float(answer[:64].sum() / answer.sum()) > 0.95


@pytest.mark.parametrize("hertz", [90.0, 160.0, 310.0])
@torch.inference_mode()
def test_the_pitch_that_is_asked_for_is_heard(head: HarmonicGenerator, hertz: float) -> None:
    bins = SpectralConfig().window // 2 + 1
    falling = 4.0 - 0.03 * torch.arange(bins)  # as a voice's harmonics do
    for layer, bias in (
        (head.out, torch.cat([falling, torch.full((bins,), -8.0)])),  # hardly any noise
        (head.pitch, torch.tensor([0.0, 5.0])),  # no correction, voiced
    ):
        torch.nn.init.zeros_(layer.weight)
        layer.bias.copy_(bias)
    octaves = torch.full((1, 50), float(np.log2(hertz)))
    wave, _ = head(features(50), octaves, torch.ones_like(octaves, dtype=torch.bool), head.initial_state(1))
    heard, voiced = measure(wave[:, 1_000:].unfold(1, WINDOW, FRAME))
    assert voiced.all()
    torch.testing.assert_close(heard, torch.full_like(heard, float(np.log2(hertz))), atol=0.03, rtol=0)


def test_a_frame_without_a_pitch_goes_on_with_the_last(head: HarmonicGenerator) -> None:
    torch.nn.init.zeros_(head.pitch.weight)
    torch.nn.init.zeros_(head.pitch.bias)
    octaves = torch.tensor([[7.0, 0.0, 0.0, 8.0, 0.0]])
    voiced = octaves > 0
    _, fresh, _ = head.initial_state(1)
    whole, _, _ = head.tell(torch.zeros(1, 20, WIDTH), octaves, voiced, fresh)
    assert whole[0, ::4].tolist() == [7.0, 7.0, 7.0, 8.0, 8.0]
    _, _, last = head.tell(torch.zeros(1, 8, WIDTH), octaves[:, :2], voiced[:, :2], fresh)
    cut, _, _ = head.tell(torch.zeros(1, 12, WIDTH), octaves[:, 2:], voiced[:, 2:], last)
    assert torch.equal(cut, whole[:, 8:])


def test_a_stream_gives_the_samples_of_the_whole(codec: Codec) -> None:
    # Without the kernels the head's correction of the pitch differs by its last bit, and moves the phase from there on.
    torch.nn.init.zeros_(codec.head.pitch.weight)  # type: ignore[union-attr, arg-type]
    codes = torch.randint(0, 256, (1, SMALL.codec.codebooks, 40), generator=torch.Generator().manual_seed(0))
    codes[:, 0, 10:20] = 0
    with torch.inference_mode():
        whole, _ = codec.decode(codes, codec.initial_decoder_state(1))
        state, parts = codec.initial_decoder_state(1), []
        for part in codes.split(1, dim=2):
            samples, state = codec.decode(part, state)
            parts.append(samples)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=0)


def test_a_slot_that_is_used_again_begins_as_a_fresh_stream(codec: Codec) -> None:
    codes = torch.randint(1, 256, (2, SMALL.codec.codebooks, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole, _ = codec.decode(codes, codec.initial_decoder_state(2))
        state = codec.initial_decoder_state(2)
        _, state = codec.decode(codes.flip(2), state)
        restart(state, 0)
        rows = torch.tensor([0])
        again, _ = codec.decode(codes[:1], take(state, rows))
    torch.testing.assert_close(again, whole[:1], atol=1e-6, rtol=0)


def test_training_cuts_what_surrounds_each_piece() -> None:
    samples = torch.arange(3_200.0).unsqueeze(0)
    around = around_ends(samples, hop=160, pieces=20)
    assert around.shape == (1, 20, WINDOW)
    assert float(around[0, 5].median()) == pytest.approx(6 * 160, abs=1)


@pytest.mark.parametrize("adversarial", [0.0, 1.0])
def test_the_codec_learns_to_speak_at_its_pitch(waves: list[np.ndarray], adversarial: float) -> None:
    codec = Codec(TINY, SMALL.frames)
    initialise(codec, 0)
    task = CodecTask(codec, SMALL.frames, CodecTaskConfig(adversarial_weight=adversarial))
    batch = collate_waves([{"wave": wave[4_000:16_800]} for wave in waves[:2]], FRAME)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    told = []
    for _ in range(30):
        optimizer.zero_grad()
        figures = task.losses("codec", batch, torch.Generator())
        figures["total"].backward()
        optimizer.step()
        told.append({name: float(value.detach()) for name, value in figures.items()})
    for name in ("voicing", "mel"):
        assert told[-1][name] < 0.8 * told[0][name]
    assert told[-1]["pitch"] < 0.15


def test_a_source_of_pulses_needs_its_rate_and_room_for_its_filters() -> None:
    frames = replace(SMALL.frames, sample_rate=22_050)
    with pytest.raises(ValueError, match="a source of pulses needs 16 kHz"):
        Codec(SMALL.codec, frames)
    with pytest.raises(ValueError, match="a window of 320 samples is too short"):
        HarmonicGenerator(WIDTH, SMALL.frames.hop, SpectralConfig(window=320, pulses=True))
    with pytest.raises(ValueError, match="2 codes"):
        PitchBook(WIDTH, 2)
