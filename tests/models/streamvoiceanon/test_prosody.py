"""How much is kept of how something is said, in a stream as offline."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_small import TINY_SMALL

from models.catalogue import Prosody
from models.streamvoiceanon import CheckpointError, StreamVoiceAnon
from models.streamvoiceanon.checkpoint import save_converted
from models.streamvoiceanon.config import config_from_values
from models.streamvoiceanon.content_encoder import with_pitch, without_pitch
from models.streamvoiceanon.full_context import FullContextConfig
from models.streamvoiceanon.prosody import ProsodyConfig, narrow_contour, narrowing
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.training.initial import fresh_networks


@pytest.fixture(
    scope="module",
    params=[ProsodyConfig(loudness=10.0), ProsodyConfig(brightness=10.0), ProsodyConfig(1.0, 10.0, 10.0)],
    ids=["loudness", "brightness", "both"],
)
def following(request: pytest.FixtureRequest, tiny_states, tiny_model: StreamVoiceAnon) -> StreamVoiceAnon:
    return StreamVoiceAnon.from_state_dicts(tiny_states, replace(tiny_model.config, prosody=request.param))


def test_a_stream_follows_as_the_whole_does(following: StreamVoiceAnon, tiny_model, prompt_wave, speech) -> None:
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


@pytest.mark.parametrize("part", ["prosody", "reduced_prosody"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        *(({name: value}, f"{name} is decibels") for name in ("loudness", "brightness") for value in (-1.0, "loud")),
        ({"loudness": float("nan")}, "loudness is decibels"),
        ({"brightness": float("inf")}, "brightness is decibels"),
        *(({"contour": value}, "contour is a share") for value in (-0.1, 1.1, float("nan"), None)),
        ({"colour": 1.0}, "does not fit this version"),
    ],
)
def test_what_is_no_range_is_refused(part: str, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        config_from_values(asdict(MINI) | {part: wrong})


def test_no_prosody_is_no_configuration_of_it() -> None:
    with pytest.raises(CheckpointError, match="prosody: a mapping is wanted, not None"):
        config_from_values(asdict(MINI) | {"prosody": None})


def test_what_was_written_before_prosody_had_a_part_of_its_own_is_read() -> None:
    old = {name: value for name, value in asdict(MINI).items() if "prosody" not in name}
    assert config_from_values(old | {"loudness": 5.0}).prosody == ProsodyConfig(loudness=5.0)
    with pytest.raises(CheckpointError, match="loudness belong into prosody"):
        config_from_values(asdict(MINI) | {"loudness": 5.0})
    both = config_from_values(old | {"loudness": 5.0, "brightness": 2.0})
    assert both == replace(MINI, prosody=ProsodyConfig(loudness=5.0, brightness=2.0))


def test_a_configuration_is_read_as_it_was_written() -> None:
    config = replace(MINI, prosody=ProsodyConfig(loudness=3.0), reduced_prosody=ProsodyConfig(contour=0.25))
    assert config_from_values(asdict(config)) == config
    assert config_from_values(asdict(MINI)).reduced_prosody is None


def test_a_narrowed_contour_moves_half_as_far_about_its_middle() -> None:
    pitch = torch.tensor([0, 1, 8, 15, 16, 17, 24, 31])
    narrowed = narrow_contour(pitch, narrowing(32, 0.5))
    assert narrowed.tolist() == [0, 8, 12, 16, 16, 16, 20, 24], "what has no pitch has none still"
    assert narrow_contour(pitch, narrowing(32, 0.0)).tolist() == [0] + [16] * 7
    assert narrow_contour(pitch, narrowing(32, 1.0)) is pitch


def test_words_and_shares_stay_what_they_were() -> None:
    generator = torch.Generator().manual_seed(0)
    words, pitch = torch.randint(4096, (9, 16), generator=generator), torch.randint(32, (9,), generator=generator)
    shares = torch.rand(9, 16, generator=generator)
    content = with_pitch(torch.stack([words.float(), shares], dim=-1), pitch, 32)
    narrowed = narrow_contour(content, narrowing(32, 0.5))
    assert torch.equal(without_pitch(narrowed, 32)[..., 0], words.float())
    assert torch.equal(narrowed[..., 1], shares)
    moved = narrow_contour(pitch, narrowing(32, 0.5))
    assert torch.equal(narrowed[..., 0] % 32, moved.unsqueeze(-1).expand(9, 16).float())
    assert torch.equal(narrow_contour(words, narrowing(0, 0.5)), words), "a model that hears no pitch"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StreamVoiceAnon]:
    """A model with both prosodies, loaded with each and with none named."""
    folder = tmp_path_factory.mktemp("model")
    save_converted(folder, fresh_networks(TINY_SMALL, 0), TINY_SMALL, {})
    named: tuple[Prosody, ...] = ("full", "reduced", "auto")
    return {prosody: StreamVoiceAnon.from_pretrained(folder, prosody=prosody) for prosody in named}


def test_less_is_kept_unless_all_is_asked_for(models: dict[str, StreamVoiceAnon], sample_wave: np.ndarray) -> None:
    wave = torch.from_numpy(sample_wave)
    voice = models["full"].make_voice(wave[:16_000])
    said = {name: model.anonymize([wave], [voice], [3])[0] for name, model in models.items()}
    assert torch.equal(said["auto"], said["reduced"])
    assert not torch.equal(said["full"], said["reduced"])
    assert models["reduced"].open_follower() is None
    heard = {name: model.encode_content(wave) for name, model in models.items()}
    assert torch.equal(heard["full"], heard["reduced"]), "prompts are read as they are"
    stream = models["reduced"].open_stream(voice, 3)
    streamed = torch.cat([*(stream.push(chunk) for chunk in wave.split(1_000)), stream.finish()])
    torch.testing.assert_close(streamed, said["reduced"], atol=1e-4, rtol=0)


def test_a_prosody_that_a_model_lacks_is_refused(tiny_states, tiny_model: StreamVoiceAnon) -> None:
    assert tiny_model.prosody == "full"
    with pytest.raises(ValueError, match="no reduced prosody"):
        StreamVoiceAnon.from_state_dicts(tiny_states, tiny_model.config, prosody="reduced")


def test_an_utterance_is_heard_beside_what_is_usual_of_its_speaker(
    models: dict[str, StreamVoiceAnon], sample_wave: np.ndarray
) -> None:
    model, wave = models["full"], torch.from_numpy(sample_wave)
    voice = model.make_voice(wave[:16_000])
    high, alone, low = model.anonymize([wave] * 3, [voice] * 3, [3] * 3, [6.0, None, 9.0])
    assert torch.equal(alone, model.anonymize([wave], [voice], [3])[0])
    assert not torch.equal(high, alone)
    assert not torch.equal(high, low)
    codes = {usual: model.encode_content(wave, usual)[:, 0, 0] % 32 for usual in (6.0, 9.0)}
    assert codes[6.0][codes[6.0] > 0][:10].min() > 16 > codes[9.0][codes[9.0] > 0][:10].max()
    with pytest.raises(ValueError, match="3 usual pitches: one of each"):
        model.anonymize([wave], [voice], [3], [1.0, 2.0, 3.0])


def test_so_it_is_where_it_is_heard_to_its_end(tmp_path: Path, sample_wave: np.ndarray) -> None:
    config = replace(TINY_SMALL, full_context=FullContextConfig(width=8, hidden=8, layers=1))
    save_converted(tmp_path, fresh_networks(config, 0), config, {})
    model = StreamVoiceAnon.from_pretrained(tmp_path, context="full", prosody="full")
    heard = [model.hear(torch.from_numpy(sample_wave), usual)[:, 0, 0] for usual in (6.0, None, 9.0)]
    words, pitch = [codes // 32 for codes in heard], [codes % 32 for codes in heard]
    assert torch.equal(words[0], words[1])
    assert torch.equal(words[1], words[2])
    first = int((pitch[1] > 0).nonzero()[0])
    assert pitch[0][first] > pitch[1][first] == 16 > pitch[2][first]
