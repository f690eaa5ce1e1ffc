"""Whole utterances heard to their end, by the embedded recogniser."""

from dataclasses import asdict, replace

import pytest
import torch
from tiny_small import TINY_SMALL
from torch import Tensor

from models.streamvoiceanon import CheckpointError, StreamVoiceAnon
from models.streamvoiceanon.config import Config, config_from_values
from models.streamvoiceanon.content_encoder import likeliest
from models.streamvoiceanon.full_context import FullContextConfig
from models.streamvoiceanon.model import Context
from models.streamvoiceanon.training.initial import fresh_networks

TINY = replace(TINY_SMALL, full_context=FullContextConfig(width=8, hidden=8, layers=1, kernel=3))
PITCHES = TINY.content_encoder.pitch_codes


def model_of(config: Config, context: Context = "auto") -> StreamVoiceAnon:
    states = {name: network.state_dict() for name, network in fresh_networks(config, 0).items()}
    return StreamVoiceAnon.from_state_dicts(states, config, context=context)


@pytest.fixture(scope="module")
def model() -> StreamVoiceAnon:
    return model_of(TINY)


@pytest.fixture(scope="module")
def wave(sample_wave: object) -> Tensor:
    return torch.as_tensor(sample_wave)[:40_100]


def test_content_is_shaped_as_the_content_encoders_and_has_its_pitch(model: StreamVoiceAnon, wave: Tensor) -> None:
    whole, causal = model.encode_whole(wave), model.encode_content(wave)
    assert whole.shape == causal.shape == (63, 4, 2)
    assert torch.equal(likeliest(whole) % PITCHES, likeliest(causal) % PITCHES)
    torch.testing.assert_close(whole[..., 1].sum(1), torch.ones(63))
    assert model.encode_whole(wave[:0]).shape == (0, 4, 2)


def test_what_follows_is_heard(model: StreamVoiceAnon, wave: Tensor) -> None:
    changed = wave.clone()
    changed[32_000:] = 0.1 * torch.randn(8_100, generator=torch.Generator().manual_seed(0))
    before = slice(0, 32_000 // 640)
    assert torch.equal(model.encode_content(wave)[before], model.encode_content(changed)[before])
    assert not torch.equal(model.encode_whole(wave)[before], model.encode_whole(changed)[before])


def test_an_utterance_longer_than_whispers_window_keeps_its_time(model: StreamVoiceAnon, wave: Tensor) -> None:
    long = wave.repeat(28)[: 70 * 16_000]
    assert len(model.encode_whole(long)) == 70 * 25
    for samples, frames in ((1, 1), (641, 2), (480_000, 750), (480_001, 751)):
        assert len(model.encode_whole(long[:samples])) == frames
    causal = likeliest(model.encode_content(long)) % PITCHES
    assert torch.equal(likeliest(model.encode_whole(long)) % PITCHES, causal), "its pitch goes on from part to part"


def test_an_encoder_of_one_code_without_pitch_can_be_heard_for(wave: Tensor) -> None:
    encoder = replace(TINY.content_encoder, nearest=1, pitch_codes=0)
    plain = replace(TINY, content_encoder=encoder, acoustic_lm=replace(TINY.acoustic_lm, pitch_codes=0))
    content = model_of(plain).encode_whole(wave)
    assert (content.shape, content.dtype) == ((63,), torch.int64)


def test_what_else_is_heard_changes_nothing_and_streams_are_causal(model: StreamVoiceAnon, wave: Tensor) -> None:
    voice = model.make_voice(wave)
    other = wave.flip(0)
    together = model.anonymize([wave, other], [voice, voice], [1, 2])
    (alone,) = model.anonymize([wave], [voice], [1])
    assert torch.equal(together[0], alone)
    (causal,) = model_of(TINY, "causal").anonymize([wave], [voice], [1])
    assert not torch.equal(causal, alone)
    stream = model.open_stream(voice, 1)
    streamed = torch.cat([*(stream.push(part) for part in wave.split(1_000)), stream.finish()])
    torch.testing.assert_close(streamed, causal, atol=1e-3, rtol=0)


def test_auto_is_full_where_the_model_was_trained_for_it(model: StreamVoiceAnon, wave: Tensor) -> None:
    assert model.context == "full"
    assert model_of(TINY_SMALL).context == "causal"
    with pytest.raises(ValueError, match="has no full context"):
        model_of(TINY_SMALL, "full")
    with pytest.raises(ValueError, match="not loaded with full context"):
        model_of(TINY, "causal").encode_whole(wave)


def test_a_configuration_is_read_as_it_was_written() -> None:
    assert config_from_values(asdict(TINY)) == TINY
    assert config_from_values(asdict(TINY_SMALL)) == TINY_SMALL
    older = {name: value for name, value in asdict(TINY_SMALL).items() if name != "full_context"}
    assert config_from_values(older) == TINY_SMALL


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (replace(TINY, frames=replace(TINY.frames, halvings=2)), "frames of 640 samples"),
        (
            replace(TINY, content_encoder=replace(TINY.content_encoder, code_width=0, nearest=1)),
            "needs a content encoder with a codebook",
        ),
        *(
            (replace(TINY, full_context=FullContextConfig(**{name: size})), told)
            for name, size, told in (
                ("kernel", 4, "kernel is odd"),
                ("layers", -1, "layers is a whole number from 1"),
                ("layers", 10**9, "layers is a whole number from 1"),
                ("width", 160.0, "width is a whole number from 1"),
                ("hidden", True, "hidden is a whole number from 1"),
                ("frame_width", 512, "the embedded recogniser's"),
            )
        ),
    ],
)
def test_what_it_cannot_hear_for_is_told(config: Config, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        config_from_values(asdict(config))
