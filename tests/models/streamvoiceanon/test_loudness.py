"""What is spoken rises and falls as what is heard, in a stream as offline."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from models.streamvoiceanon import CheckpointError, StreamVoiceAnon
from models.streamvoiceanon.config import config_from_values
from models.streamvoiceanon.loudness import Loudness
from models.streamvoiceanon.shapes import MINI

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


@pytest.fixture(scope="module")
def following(tiny_states, tiny_model: StreamVoiceAnon) -> StreamVoiceAnon:
    return StreamVoiceAnon.from_state_dicts(tiny_states, replace(tiny_model.config, loudness=10.0))


def test_a_stream_is_as_loud_as_the_whole(following: StreamVoiceAnon, tiny_model, prompt_wave, speech) -> None:
    voice, wave = following.make_voice(prompt_wave), speech(1.0)
    (whole,), (plain,) = (model.anonymize([wave], [voice], [3]) for model in (following, tiny_model))
    assert not torch.allclose(whole, plain, atol=1e-4)
    stream = following.open_stream(voice, 3)
    streamed = torch.cat([*(stream.push(chunk) for chunk in wave.split(1_000)), stream.finish()])
    torch.testing.assert_close(streamed, whole, atol=1e-6, rtol=0)


def test_streams_of_one_batch_follow_each_their_own(following: StreamVoiceAnon, prompt_wave, speech) -> None:
    voice, wave = following.make_voice(prompt_wave), speech(1.0)
    alone = following.anonymize([wave], [voice], [3])[0]
    batch = following.open_batch(2)
    length = following.frame_samples
    frames = list(wave[: len(wave) // length * length].split(length))
    first = batch.open(voice, following.delay, torch.Generator().manual_seed(3))
    other = batch.open(voice, following.delay, torch.Generator().manual_seed(4))
    said = []
    for number, frame in enumerate(frames):
        moved = batch.step({first: frame} if number % 3 else {first: frame, other: 0.1 * frame.flip(0)})
        said += [moved[first]] if first in moved else []
    batch.drop(other)
    torch.testing.assert_close(torch.cat(said), alone[: len(said) * length], atol=1e-6, rtol=0)
    batch.drop(first)
    again = batch.open(voice, following.delay, torch.Generator().manual_seed(3))
    fresh = [batch.step({again: frame}) for frame in frames]
    assert torch.equal(torch.cat([moved[again] for moved in fresh if moved]), torch.cat(said))


def test_an_empty_wave_stays_empty(following: StreamVoiceAnon, prompt_wave, speech) -> None:
    voice = following.make_voice(prompt_wave)
    empty, whole = following.anonymize([torch.zeros(0), speech(0.3)], [voice] * 2)
    assert (len(empty), len(whole)) == (0, len(speech(0.3)))


def test_a_click_is_forgotten_and_what_is_no_number_is_not_heard() -> None:
    soft = [0.01] * 60 + [0.005] * 20 + [0.02] * 20
    alone = decibels(followed(tone(soft), tone([0.05] * 100)))[40:]
    clicked = tone(soft)
    clicked[0] = 1.0
    torch.testing.assert_close(decibels(followed(clicked, tone([0.05] * 100)))[40:], alone, atol=1.0, rtol=0)
    clicked[0] = 1e30
    torch.testing.assert_close(decibels(followed(clicked, tone([0.05] * 100)))[40:], alone, atol=1.0, rtol=0)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "loud"])
def test_a_loudness_that_is_no_range_is_refused(wrong: object) -> None:
    with pytest.raises(CheckpointError, match="loudness is decibels"):
        config_from_values(asdict(MINI) | {"loudness": wrong})
