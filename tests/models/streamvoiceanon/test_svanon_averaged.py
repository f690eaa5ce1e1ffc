"""Speaking what codes mean on average, and not the codes that were drawn."""

from dataclasses import asdict, replace

import pytest
import torch
import torchaudio
from torch import Tensor

from models.streamvoiceanon import CheckpointError, StreamVoiceAnon, Voice, kernels
from models.streamvoiceanon.config import config_from_values
from models.streamvoiceanon.generation import Utterance, average, write_all
from models.streamvoiceanon.harmonic import HIGHEST, LOWEST, MIDDLE, PitchBook
from models.streamvoiceanon.shapes import MINI, SMALL
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.training.initial import fresh_networks

needs_kernels = pytest.mark.skipif(not kernels.available(), reason="only the compiled kernels promise equal bits")


@pytest.fixture(scope="module")
def averaging(tiny_states, tiny_model: StreamVoiceAnon) -> StreamVoiceAnon:
    config = tiny_model.config
    return StreamVoiceAnon.from_state_dicts(
        tiny_states, replace(config, acoustic_lm=replace(config.acoustic_lm, averaged=True))
    )


@pytest.fixture(scope="module")
def pulsing() -> StreamVoiceAnon:
    """One that speaks by pulses, at a pitch that is a mean as well."""
    config = replace(
        SMALL,
        content_encoder=replace(MINI.content_encoder, depths=(1,), widths=(32,), heads=2, hidden=32, layers=1),
        codec=replace(SMALL.codec, depths=(1, 1), widths=(16, 32), spectral=SpectralConfig(pulses=True, depth=1)),
        acoustic_lm=replace(
            MINI.acoustic_lm, width=32, heads=2, hidden=32, slow_layers=1, fast_layers=1, averaged=True
        ),
    )
    states = {name: network.state_dict() for name, network in fresh_networks(config, 0).items()}
    return StreamVoiceAnon.from_state_dicts(states, config)


@pytest.fixture(scope="module")
def voice(tiny_model: StreamVoiceAnon, prompt_wave: Tensor) -> Voice:
    return tiny_model.make_voice(prompt_wave)


def test_means_are_those_of_the_probabilities() -> None:
    values = torch.tensor([[[0.0, 1.0, 5.0], [1.0, 1.0, -1.0]]])  # one codebook, two channels, three codes
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]).clamp(min=1e-30).log()
    assert average([logits], values).flatten().tolist() == pytest.approx([1.5, 0.5, 1.0, 1.0])


def test_codes_and_what_they_mean_sound_alike(tiny_model: StreamVoiceAnon, voice: Voice) -> None:
    codec = tiny_model.codec
    codes = voice.acoustic.unsqueeze(0)
    values = codec.values().unsqueeze(0).take_along_dim(codes.unsqueeze(-1), dim=2)
    with torch.inference_mode():
        a, _ = codec.decode(codes, codec.initial_decoder_state(1))
        b, _ = codec.decode(values, codec.initial_decoder_state(1))
    torch.testing.assert_close(a, b)


def test_a_pitch_is_the_mean_of_the_frames_that_have_one() -> None:
    book = PitchBook(8, 256)
    low, high = book.values(torch.tensor([1, 255]))
    silent = torch.zeros(2)
    octaves, voiced = book.octaves(torch.stack([low, (low + high) / 2, 0.6 * high + 0.4 * silent, 0.4 * low]))
    assert voiced.tolist() == [True, True, True, False]
    torch.testing.assert_close(octaves[:3], torch.tensor([LOWEST, (LOWEST + HIGHEST) / 2, HIGHEST]))
    assert book.octaves(silent)[0] == pytest.approx(MIDDLE)


def test_who_is_sure_of_the_code_speaks_the_code(averaging: StreamVoiceAnon, voice, speech) -> None:
    """The means are those of the codes that were drawn, where no other is likely."""
    lm, values = averaging.acoustic_lm, averaging.codec.values()
    content = averaging.encode_content(speech(0.5))
    utterance = Utterance(content, averaging.prompt(voice), None)

    def surely(logits: list[Tensor], values: Tensor) -> Tensor:
        return average([1e6 * each for each in logits], values)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr("models.streamvoiceanon.generation.average", surely)
        ((_, means),) = write_all(lm, [utterance], 2, 1, 0, values)
        ((_, codes),) = write_all(lm, [utterance], 2, 1, 0)
    torch.testing.assert_close(means, values.take_along_dim(codes.unsqueeze(-1), dim=1))


def test_what_is_spoken_is_another_wave(averaging: StreamVoiceAnon, tiny_model, voice, speech) -> None:
    (a,), (b,) = (model.anonymize([speech(0.5)], [voice], [1]) for model in (averaging, tiny_model))
    assert len(a) == len(b)
    assert not torch.allclose(a, b, atol=1e-3)


@needs_kernels
def test_neither_the_batch_nor_the_stream_changes_it(averaging: StreamVoiceAnon, voice, speech) -> None:
    check_stream(averaging, voice, [speech(seconds) for seconds in (1.3, 0.4, 0.02, 0.0)], atol=0.0)


@needs_kernels
def test_neither_changes_the_pulses_whose_pitch_is_a_mean(pulsing: StreamVoiceAnon, speech) -> None:
    wave = torchaudio.functional.resample(speech(2.0), 44_100, 16_000)
    # Fourier transforms of several pieces at once round otherwise. A pitch off by its last bit would show at 1e-4.
    check_stream(pulsing, pulsing.make_voice(wave), [wave, wave[8_000:20_000], wave[:300]], atol=1e-6)


def check_stream(model: StreamVoiceAnon, voice: Voice, waves: list[Tensor], atol: float) -> None:
    together = model.anonymize(waves, [voice] * len(waves), range(len(waves)))
    for seed, (wave, whole) in enumerate(zip(waves, together, strict=True)):
        (alone,) = model.anonymize([wave], [voice], [seed])
        stream = model.open_stream(voice, seed)
        streamed = torch.cat([*(stream.push(chunk) for chunk in wave.split(1_000)), stream.finish()])
        assert torch.equal(alone, whole)
        torch.testing.assert_close(streamed, whole, atol=atol, rtol=0)


def test_an_averaged_model_speaks_content_codes_as_it_speaks_waves(averaging: StreamVoiceAnon, voice, speech) -> None:
    wave = speech(0.5)
    (whole,) = averaging.anonymize([wave], [voice], [3])
    spoken = averaging.speak(averaging.encode_content(wave), voice, torch.Generator().manual_seed(3))
    assert torch.allclose(spoken[: len(wave)], whole, atol=1e-5)


def test_codes_that_are_averaged_are_the_codecs() -> None:
    sizes = asdict(MINI)
    assert config_from_values(sizes) == MINI
    sizes["acoustic_lm"] |= {"averaged": True, "acoustic_codes": 255}
    with pytest.raises(CheckpointError, match="256 codes, the language model 255"):
        config_from_values(sizes)
