"""Speaking what codes mean on average, and not the codes that were drawn."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.streamvoiceanon import StreamVoiceAnon, Voice, kernels
from models.streamvoiceanon.generation import Utterance, average, write_all
from models.streamvoiceanon.harmonic import HIGHEST, LOWEST, MIDDLE, PitchBook

needs_kernels = pytest.mark.skipif(not kernels.available(), reason="only the compiled kernels promise equal bits")


@pytest.fixture(scope="module")
def averaging(tiny_states, tiny_model: StreamVoiceAnon) -> StreamVoiceAnon:
    config = tiny_model.config
    return StreamVoiceAnon.from_state_dicts(
        tiny_states, replace(config, acoustic_lm=replace(config.acoustic_lm, averaged=True))
    )


@pytest.fixture(scope="module")
def voice(tiny_model: StreamVoiceAnon, prompt_wave: Tensor) -> Voice:
    return tiny_model.make_voice(prompt_wave)


def test_means_are_those_of_the_probabilities() -> None:
    values = torch.tensor([[[0.0, 1.0], [1.0, 1.0], [5.0, -1.0]]])  # one codebook, three codes
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


def test_who_is_sure_of_the_code_speaks_the_code(averaging: StreamVoiceAnon, tiny_model, voice, speech) -> None:
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
    waves = [speech(seconds) for seconds in (1.3, 0.4, 0.02, 0.0)]
    together = averaging.anonymize(waves, [voice] * 4, range(4))
    for seed, (wave, whole) in enumerate(zip(waves, together, strict=True)):
        (alone,) = averaging.anonymize([wave], [voice], [seed])
        stream = averaging.open_stream(voice, seed)
        streamed = torch.cat([*(stream.push(chunk) for chunk in wave.split(1_000)), stream.finish()])
        assert torch.equal(alone, whole)
        assert torch.equal(streamed, whole)
