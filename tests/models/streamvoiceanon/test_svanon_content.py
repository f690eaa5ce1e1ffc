"""Content that is several codes at once, each with its share."""

from dataclasses import asdict, replace

import pytest
import torch
from tiny_small import TINY_SMALL
from torch import Tensor

from models.streamvoiceanon import CheckpointError, StreamVoiceAnon
from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.config import Config, config_from_values
from models.streamvoiceanon.content_encoder import (
    NearestQuantizer,
    likeliest,
    only,
    with_pitch,
    with_shares,
    without_pitch,
)
from models.streamvoiceanon.training.initial import fresh_networks, initialise


def model_of(config: Config) -> StreamVoiceAnon:
    states = {name: network.state_dict() for name, network in fresh_networks(config, 0).items()}
    return StreamVoiceAnon.from_state_dicts(states, config)


def wave(seconds: float) -> Tensor:
    return 0.1 * torch.randn(round(16_000 * seconds), generator=torch.Generator().manual_seed(0))


def test_shares_fall_with_the_squared_distance() -> None:
    quantizer = NearestQuantizer(2, 2, 2)
    with torch.no_grad():
        quantizer.codebook.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [9.0, 9.0]]))
    codes, shares = quantizer.shared(torch.tensor([0.25, 0.0]), 3, spread=0.5).unbind(-1)
    assert codes.tolist() == [0, 1, 2]
    expected = torch.exp(-torch.tensor([0.25**2, 0.75**2, 0.25**2 + 9.0]) / 0.5)
    torch.testing.assert_close(shares, expected / expected.sum())


def test_the_likeliest_is_the_code_of_an_encoder_that_hears_one() -> None:
    several = model_of(TINY_SMALL)
    one = model_of(replace(TINY_SMALL, content_encoder=replace(TINY_SMALL.content_encoder, nearest=1)))
    content, codes = several.encode_content(wave(0.5)), one.encode_content(wave(0.5))
    assert content.shape == (13, 4, 2)
    assert torch.equal(likeliest(content), codes)
    torch.testing.assert_close(content[..., 1].sum(1), torch.ones(13))
    voice = several.make_voice(wave(0.5))
    assert torch.equal(voice.content, one.make_voice(wave(0.5)).content), "a bank holds codes"
    assert several.encode_content(wave(0.0)).shape == (0, 4, 2)


def test_a_language_model_reads_the_mean_of_what_the_codes_are() -> None:
    lm = AcousticLM(TINY_SMALL.acoustic_lm, content_head=True)
    initialise(lm, 0)
    codes = torch.tensor([3 * 32 + 5, 9 * 32 + 5])
    mean = lm.embed_content(with_shares(codes, torch.tensor([0.25, 0.75])))
    first, second = lm.embed_content(codes)
    torch.testing.assert_close(mean, 0.25 * first + 0.75 * second)
    torch.testing.assert_close(lm.embed_content(only(codes, 4)), lm.embed_content(codes))


@pytest.mark.parametrize("several", [False, True])
def test_a_pitch_is_taken_and_given_back(several: bool) -> None:
    codes, pitch = torch.tensor([3, 9, 31]), torch.tensor([0, 5, 31])
    said = only(codes, 4) if several else codes
    whole = with_pitch(said, pitch, 32)
    assert torch.equal(likeliest(whole), codes * 32 + pitch)
    assert torch.equal(without_pitch(whole, 32), said)


def test_streams_hear_what_the_whole_hears() -> None:
    model, said = model_of(TINY_SMALL), wave(1.5)
    voice = model.make_voice(wave(1.0))
    (whole,) = model.anonymize([said], [voice], [3])
    stream = model.open_stream(voice, 3)
    streamed = torch.cat([*(stream.push(chunk) for chunk in said.split(1_000)), stream.finish()])
    torch.testing.assert_close(streamed, whole, atol=1e-4, rtol=0)


def test_only_a_codebook_has_neighbours() -> None:
    sizes = asdict(TINY_SMALL)
    assert config_from_values(sizes) == TINY_SMALL
    for wrong in (
        {"code_width": 0},
        {"nearest": 33},
        {"nearest": 0},
        {"nearest": 4.0},
        {"spread": float("inf")},
        {"spread": 0.0},
    ):
        with pytest.raises(CheckpointError, match=r"hears the .* nearest codes"):
            config_from_values(sizes | {"content_encoder": sizes["content_encoder"] | wrong})
