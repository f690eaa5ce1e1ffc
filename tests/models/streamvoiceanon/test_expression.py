"""What of an utterance's expression is followed is followed in a stream as offline."""

from dataclasses import asdict, replace

import pytest
import torch

from models.streamvoiceanon import CheckpointError, StreamVoiceAnon
from models.streamvoiceanon.config import config_from_values
from models.streamvoiceanon.shapes import MINI


@pytest.fixture(scope="module", params=[(10.0, 0.0), (0.0, 10.0), (10.0, 10.0)], ids=["loudness", "brightness", "both"])
def following(request: pytest.FixtureRequest, tiny_states, tiny_model: StreamVoiceAnon) -> StreamVoiceAnon:
    loudness, brightness = request.param
    return StreamVoiceAnon.from_state_dicts(
        tiny_states, replace(tiny_model.config, loudness=loudness, brightness=brightness)
    )


def test_a_stream_is_expressed_as_the_whole(following: StreamVoiceAnon, tiny_model, prompt_wave, speech) -> None:
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


@pytest.mark.parametrize("name", ["loudness", "brightness"])
@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "loud"])
def test_what_is_no_range_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is decibels"):
        config_from_values(asdict(MINI) | {name: wrong})
