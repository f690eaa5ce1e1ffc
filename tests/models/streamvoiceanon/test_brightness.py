"""What is spoken becomes brighter and softer as what is heard."""

import torch
from torch import Tensor

from models.streamvoiceanon.brightness import Brightness, Tilt
from models.streamvoiceanon.prosody import ProsodyConfig, ProsodyFollower
from models.streamvoiceanon.shapes import SMALL

FRAMES = SMALL.frames
FRAME, RATE = FRAMES.samples, FRAMES.sample_rate


def noise(tilts: list[float], level: float = 0.1) -> Tensor:
    """Frames of noise, as loud as each other, whose frequencies above 1 kHz are raised by so many decibels."""
    white = torch.randn(len(tilts), FRAME, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(white)
    above = torch.fft.rfftfreq(FRAME, 1.0 / RATE) >= 1_000.0
    raised = torch.where(above, 10.0 ** (torch.tensor(tilts).unsqueeze(1) / 20.0), 1.0)
    frames = torch.fft.irfft(spectrum * raised)
    return level * frames / frames.square().mean(1, keepdim=True).sqrt()


def followed(heard: Tensor, spoken: Tensor, most: float = 10.0, ahead: int = 0) -> Tensor:
    brightness = Brightness(most, FRAMES)
    for frame in heard[:ahead]:
        brightness.hear(frame)
    made = []
    for number, frame in enumerate(spoken):
        if number + ahead < len(heard):
            brightness.hear(heard[number + ahead])
        made.append(brightness.follow(frame))
    return torch.stack(made)


def tilts(frames: Tensor) -> Tensor:
    """Decibels of what is above 1 kHz beside what is below."""
    power = torch.fft.rfft(frames).abs().square()
    hertz = torch.fft.rfftfreq(FRAME, 1.0 / RATE)
    low = power[:, (hertz > 100) & (hertz < 1_000)].sum(1)
    return 10.0 * (power[:, (hertz >= 1_000) & (hertz < 5_000)].sum(1) / low).log10()


def test_an_even_voice_becomes_brighter_and_softer_as_the_one_that_is_heard() -> None:
    heard = noise([0.0] * 40 + [8.0] * 40 + [-8.0] * 40)
    made = tilts(followed(heard, noise([0.0] * 120))) - tilts(noise([0.0] * 120))
    calm, bright, soft = (float(made[at].mean()) for at in (slice(20, 40), slice(55, 80), slice(95, 120)))
    assert abs(calm) < 1.0
    assert bright - calm > 3.5
    assert soft - calm < -3.5


def test_neither_how_bright_nor_how_loud_somebody_is_is_told() -> None:
    pattern = [0.0, 6.0, -3.0, 2.0] * 10
    heard, spoken = noise(pattern), noise([0.0] * 40)
    sharp = noise([tilt + 9.0 for tilt in pattern], 0.02)
    difference = tilts(followed(sharp, spoken)) - tilts(followed(heard, spoken))
    assert float(difference.abs().max()) < 0.5


def test_who_already_speaks_as_bright_is_left_alone() -> None:
    frames = noise([0.0, 6.0, -3.0, 2.0] * 10)
    torch.testing.assert_close(followed(0.5 * frames, frames), frames, atol=1e-5, rtol=0)


def test_it_is_followed_no_farther_than_it_may_be() -> None:
    heard, spoken = noise([0.0] * 40 + [30.0] * 40), noise([0.0] * 80)
    change = tilts(followed(heard, spoken, most=3.0)) - tilts(spoken)
    assert 1.5 < float(change[60:].mean()) < 3.1
    loud = noise([0.0] * 80, 0.5)
    assert float(followed(heard, loud).abs().max()) <= 1.0


def test_silence_is_not_counted_and_what_is_no_number_is_not_heard() -> None:
    brightness = Brightness(10.0, FRAMES)
    spoken = noise([0.0] * 4)
    for frame in (torch.zeros(FRAME), torch.full((FRAME,), 1e30), noise([0.0])[0]):
        brightness.hear(frame)
        torch.testing.assert_close(brightness.follow(spoken[0]), spoken[0], atol=1e-6, rtol=0)
    assert Tilt(FRAMES).above(torch.zeros(FRAME)) is None


def test_what_is_heard_ahead_changes_nothing() -> None:
    heard, spoken = noise([0.0, 6.0, -3.0, 2.0] * 10), noise([0.0, 3.0] * 20)
    assert torch.equal(followed(heard, spoken, ahead=3), followed(heard, spoken))


def test_what_is_made_brighter_is_as_loud_as_what_is_heard() -> None:
    heard = noise([0.0] * 40 + [10.0] * 40)
    both, one = (ProsodyFollower(ProsodyConfig(1.0, most, 10.0), FRAMES) for most in (10.0, 0.0))
    levels = []
    for follower in (both, one):
        made = []
        for frame, spoken in zip(heard, noise([0.0] * 80), strict=True):
            follower.hear(frame)
            made.append(follower.follow(spoken))
        levels.append(10.0 * torch.stack(made[60:]).square().mean().log10())
    asked = 10.0 * heard[60:].square().mean().log10()
    assert abs(float(levels[0] - asked)) < 0.5 * abs(float(levels[1] - asked))
