"""What is spoken rises and falls as what is heard."""

import pytest
import torch
from torch import Tensor

from models.streamvoiceanon.loudness import Loudness

FRAME = 640


def tone(levels: list[float]) -> Tensor:
    """Frames of noise of these root mean squares."""
    noise = torch.randn(len(levels), FRAME, generator=torch.Generator().manual_seed(0))
    return noise / noise.square().mean(1, keepdim=True).sqrt() * torch.tensor(levels).unsqueeze(1)


def followed(heard: Tensor, spoken: Tensor, most: float = 10.0, ahead: int = 0) -> Tensor:
    loudness = Loudness(most)
    for frame in heard[:ahead]:
        loudness.hear(frame)
    made = []
    for number, frame in enumerate(spoken):
        if number + ahead < len(heard):
            loudness.hear(heard[number + ahead])
        made.append(loudness.follow(frame))
    return torch.stack(made)


def decibels(frames: Tensor) -> Tensor:
    return 10.0 * frames.square().mean(1).log10()


def test_an_even_voice_rises_and_falls_as_the_one_that_is_heard() -> None:
    heard = tone([0.1] * 20 + [0.2] * 10 + [0.05] * 10)
    made = decibels(followed(heard, tone([0.05] * 40)))
    assert float(made[:20].std()) < 0.5
    assert float(made[24:30].mean() - made[:20].mean()) == pytest.approx(6.0, abs=2.0)
    assert float(made[35:].mean() - made[24:30].mean()) == pytest.approx(-12.0, abs=3.0)


def test_how_loud_somebody_is_is_not_told() -> None:
    heard, spoken = tone([0.05, 0.1, 0.02] * 10), tone([0.1] * 30)
    torch.testing.assert_close(followed(4.0 * heard, spoken), followed(heard, spoken))


def test_who_already_speaks_as_loud_is_left_alone() -> None:
    frames = tone([0.05, 0.1, 0.02] * 10)
    torch.testing.assert_close(followed(0.5 * frames, frames), frames, atol=1e-4, rtol=0)


def test_it_is_followed_no_farther_than_it_may_be_and_never_past_full_scale() -> None:
    heard, spoken = tone([0.01] * 30 + [0.2] * 10), tone([0.1] * 40)
    change = decibels(followed(heard, spoken, most=3.0)) - decibels(spoken)
    assert float(change.abs().max()) < 3.1
    assert float(change[-1]) == pytest.approx(3.0, abs=0.1), "fourteen decibels louder were wanted"
    loud = tone([0.1] * 38 + [0.5] * 2).clamp(-0.9, 0.9)
    assert 0.9 < float(followed(heard, loud)[-1].abs().max()) <= 1.0


def test_silence_is_neither_raised_nor_counted() -> None:
    speech, silence = [0.1, 0.05, 0.2], [0.0] * 3
    made = followed(tone(silence + speech), tone([1e-5] * 3 + [0.1] * 3))
    torch.testing.assert_close(made[:3], tone([1e-5] * 3 + [0.1] * 3)[:3])
    assert abs(float(decibels(made[3:4]) - decibels(tone([0.1])))) < 0.1


def test_what_is_heard_ahead_changes_nothing() -> None:
    heard, spoken = tone([0.05, 0.1, 0.02] * 10), tone([0.1, 0.12] * 15)
    assert torch.equal(followed(heard, spoken, ahead=3), followed(heard, spoken))


def test_a_click_is_forgotten_and_what_is_no_number_is_not_heard() -> None:
    soft = [0.01] * 60 + [0.005] * 20 + [0.02] * 20
    alone = decibels(followed(tone(soft), tone([0.05] * 100)))[40:]
    clicked = tone(soft)
    clicked[0] = 1.0
    torch.testing.assert_close(decibels(followed(clicked, tone([0.05] * 100)))[40:], alone, atol=1.0, rtol=0)
    clicked[0] = 1e30
    torch.testing.assert_close(decibels(followed(clicked, tone([0.05] * 100)))[40:], alone, atol=1.0, rtol=0)
