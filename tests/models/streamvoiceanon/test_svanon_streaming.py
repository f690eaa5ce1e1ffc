"""A stream gives what the whole utterance gives, however it is cut and whoever else is in its batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.streamvoiceanon import StreamVoiceAnon, Voice
from models.streamvoiceanon.frontend import FRAME_SAMPLES

FRAMES = 3_100  # past the rotary table's 2,048 rows


@pytest.fixture(scope="module")
def voice(tiny_model: StreamVoiceAnon, prompt_wave: Tensor) -> Voice:
    return tiny_model.make_voice(prompt_wave)


def test_content_codes_streamed_for_3100_frames_equal_the_offline_ones(tiny_model: StreamVoiceAnon, speech) -> None:
    wave = speech(FRAMES * FRAME_SAMPLES / 44_100 + 0.001)[: FRAMES * FRAME_SAMPLES]
    encoder, codes = tiny_model.content_encoder, []
    with torch.inference_mode():
        state = encoder.initial_state(1, chunk=1)
        for frame in wave.split(FRAME_SAMPLES):
            code, state = encoder(frame.unsqueeze(0), state)
            codes.append(code[0])
    assert torch.equal(torch.cat(codes), tiny_model.encode_content(wave))


def test_samples_streamed_for_3100_frames_equal_the_offline_ones(tiny_model: StreamVoiceAnon) -> None:
    codes = torch.randint(1000, (8, FRAMES), generator=torch.Generator().manual_seed(0))
    samples = []
    with torch.inference_mode():
        state = tiny_model.codec.initial_decoder_state(1)
        for frame in codes.split(1, dim=1):
            part, state = tiny_model.codec.decode(frame.unsqueeze(0), state)
            samples.append(part[0])
    assert torch.allclose(torch.cat(samples), tiny_model.decode_acoustic(codes), atol=1e-4, rtol=0)


def test_plain_torch_and_the_kernels_agree(tiny_model: StreamVoiceAnon, torch_model: StreamVoiceAnon, speech) -> None:
    with torch.inference_mode():
        wave = speech(2.0)[: 40 * FRAME_SAMPLES].unsqueeze(0)
        parts = []
        for model in (tiny_model, torch_model):
            encoder, codec = model.content_encoder, model.codec
            x, _ = encoder.backbone(
                encoder.mel(wave, encoder.mel.initial_state(1))[0], encoder.backbone.initial_state(1)
            )
            x, _ = encoder.quantizer.downsample(x, encoder.quantizer.downsample.initial_state(1))
            x, _ = encoder.quantizer.pre_module(x, encoder.quantizer.pre_module.initial_state(1, 40))
            codes = torch.arange(8 * 30).view(1, 8, 30)
            parts.append((x, codec.decode(codes, codec.initial_decoder_state(1))[0]))
    for kernels, plain in zip(*parts, strict=True):
        assert torch.allclose(kernels, plain, atol=1e-4, rtol=1e-4)


def test_a_transformer_window_forgets_what_is_further_back(torch_model: StreamVoiceAnon) -> None:
    """With two layers of window 8, what came 15 positions before has no way to the output."""
    transformer = torch_model.content_encoder.quantizer.pre_module
    x = torch.randn(1, 60, 32, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, :40] += 1.0
    with torch.inference_mode():
        first, _ = transformer(x, transformer.initial_state(1, 60))
        second, _ = transformer(changed, transformer.initial_state(1, 60))
    assert torch.equal(first[:, 54:], second[:, 54:])
    assert not torch.allclose(first[:, 46:54], second[:, 46:54])


@pytest.mark.parametrize("chunk", [1_000, 2_048, 7_777])
def test_a_stream_gives_what_anonymizing_the_whole_gives(
    tiny_model: StreamVoiceAnon, voice, speech, chunk: int
) -> None:
    wave = speech(1.5)  # 32 frames and a part of one
    stream = tiny_model.open_stream(voice, seed=7)
    streamed = torch.cat([*(stream.push(part) for part in wave.split(chunk)), stream.finish()])
    (whole,) = tiny_model.anonymize([wave], [voice], [7])
    assert len(streamed) == len(wave)
    assert torch.allclose(streamed, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("delay", [0, 2, 8])
def test_a_stream_gives_the_whole_across_refills(
    tiny_model: StreamVoiceAnon, voice, speech, monkeypatch, delay
) -> None:
    lm = tiny_model.acoustic_lm
    monkeypatch.setattr(lm, "config", replace(lm.config, max_frames=90))
    wave = speech(7.0)  # 151 frames: a sequence is full 42 frames after the prompt's 48, and again every 10
    stream = tiny_model.open_stream(voice, seed=7, delay=delay)
    streamed = torch.cat([*(stream.push(part) for part in wave.split(9_999)), stream.finish()])
    (whole,) = tiny_model.anonymize([wave], [voice], [7], delay=delay)
    assert len(streamed) == len(wave)
    assert torch.allclose(streamed, whole, atol=1e-4, rtol=0)


def test_a_stream_lags_by_no_more_than_its_latency(tiny_model: StreamVoiceAnon, voice: Voice, speech) -> None:
    stream = tiny_model.open_stream(voice, delay=4)
    assert stream.latency == pytest.approx(5 * FRAME_SAMPLES / 44_100)
    pushed = returned = 0
    for part in speech(1.0).split(500):
        pushed += len(part)
        returned += len(stream.push(part))
        assert pushed - returned <= stream.latency * 44_100


def test_streams_of_one_batch_start_pause_and_end_on_their_own(tiny_model: StreamVoiceAnon, voice, speech) -> None:
    waves = [speech(2.0)[start : start + 20 * FRAME_SAMPLES].split(FRAME_SAMPLES) for start in (0, 5_000, 11_000)]
    alone = []
    for i, frames in enumerate(waves):
        stream = tiny_model.open_stream(voice, seed=i)
        alone.append(torch.cat([*(stream.push(frame) for frame in frames), stream.finish()]))
    batch = tiny_model.open_batch(slots=2)
    spoken: list[list[Tensor]] = [[], [], []]
    slots: dict[int, int] = {}  # stream: slot
    read = [0, 0, 0]

    def move(*streams: int) -> None:
        out = batch.step({slots[i]: waves[i][read[i]] for i in streams})
        for i in streams:
            read[i] += 1
            spoken[i] += [out[slots[i]]] if slots[i] in out else []

    def open_stream(i: int) -> None:
        slots[i] = batch.open(voice, 2, torch.Generator().manual_seed(i))

    def end(i: int) -> None:
        spoken[i] += batch.end(slots.pop(i))

    open_stream(0)
    for _ in range(7):
        move(0)
    open_stream(1)
    with pytest.raises(RuntimeError, match="every slot"):
        open_stream(2)
    for turn in range(13):
        move(*((0, 1) if turn % 3 else (0,)))
    end(0)
    open_stream(2)  # takes the slot that the first one left
    while read[1] < 20:
        move(1, 2)
    end(1)
    while read[2] < 20:
        move(2)
    end(2)
    for together, single in zip(spoken, alone, strict=True):
        assert torch.allclose(torch.cat(together), single, atol=1e-4, rtol=0)


def test_an_empty_stream_ends_empty(tiny_model: StreamVoiceAnon, voice: Voice) -> None:
    stream = tiny_model.open_stream(voice)
    assert len(stream.push(torch.zeros(0))) == 0
    assert len(stream.finish()) == 0


def test_a_stream_closes_once(tiny_model: StreamVoiceAnon, voice: Voice) -> None:
    stream = tiny_model.open_stream(voice)
    stream.finish()
    with pytest.raises(ValueError, match="closed"):
        stream.finish()
    with pytest.raises(ValueError, match="closed"):
        stream.push(torch.zeros(10))


def test_a_stream_whose_end_fails_midway_gives_its_slot_back_when_it_is_dropped(
    tiny_model: StreamVoiceAnon, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = tiny_model.open_batch(slots=1)
    slot = batch.open(voice, 2, None)
    batch.step({slot: torch.zeros(FRAME_SAMPLES)})
    with monkeypatch.context() as patched:
        patched.setattr(batch, "_speak", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            batch.end(slot)
    batch.drop(slot)
    assert batch.open(voice, 2, None) == slot


def test_a_stream_refuses_samples_that_are_no_numbers(tiny_model: StreamVoiceAnon, voice: Voice) -> None:
    with pytest.raises(ValueError, match="not finite"):
        tiny_model.open_stream(voice).push(torch.tensor([0.0, float("nan")]))


@pytest.mark.parametrize("delay", [-1, 9])
def test_a_delay_out_of_range_is_refused(tiny_model: StreamVoiceAnon, voice: Voice, delay: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 8"):
        tiny_model.open_stream(voice, delay=delay)
    with pytest.raises(ValueError, match="between 0 and 8"):
        tiny_model.generate(torch.zeros(3, dtype=torch.int64), voice, delay=delay)
