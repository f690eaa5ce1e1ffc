"""Writing codes: sampling, batches, refilling, and what bad utterances get."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.streamvoiceanon import Config, StreamVoiceAnon, Voice, kernels
from models.streamvoiceanon.acoustic_lm import AcousticLM, AcousticLMConfig
from models.streamvoiceanon.frontend import FRAME_SAMPLES
from models.streamvoiceanon.generation import Prompt, WriterBatch, sample
from models.streamvoiceanon.linear import pack
from models.streamvoiceanon.training.initial import initialise

CLEAR = Path("/proc/self/clear_refs")
needs_kernels = pytest.mark.skipif(not kernels.available(), reason="only the compiled kernels promise equal bits")


@pytest.fixture(scope="module")
def voices(tiny_model: StreamVoiceAnon, prompt_wave: Tensor, speech) -> list[Voice]:
    return [tiny_model.make_voice(prompt_wave), tiny_model.make_voice(speech(0.5))]


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def either_sampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling by the kernels, and as it is on a GPU."""
    if request.param and not kernels.available():
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(kernels, "available", lambda: request.param)


@pytest.mark.usefixtures("either_sampler")
def test_the_likeliest_codes_are_drawn_and_no_others() -> None:
    """Probabilities .5 .15 .3 .05: top-p 0.7 keeps the first alone, since two sum to 0.8."""
    logits = torch.tensor([[0.5, 0.15, 0.3, 0.05]]).log().repeat(5, 1)
    uniform = torch.tensor([0.0, 0.3, 0.6, 0.9, 0.999])
    assert sample(logits, uniform, torch.zeros(5, dtype=torch.bool)).tolist() == [0] * 5


@pytest.mark.usefixtures("either_sampler")
def test_draws_follow_the_tempered_probabilities() -> None:
    """Probabilities .35 .3 .2 .15: 0.65 is within 0.7, so two are kept, at (.35 / .3) ** (1 / 0.7) to 1."""
    logits = torch.tensor([[0.3, 0.15, 0.35, 0.2]]).log().repeat(1000, 1)
    drawn = sample(logits, torch.arange(1000) / 1000, torch.zeros(1000, dtype=torch.bool))
    ratio = (0.35 / 0.3) ** (1 / 0.7)
    assert set(drawn.tolist()) == {0, 2}
    assert float((drawn == 2).float().mean()) == pytest.approx(ratio / (1 + ratio), abs=2e-3)


@pytest.mark.usefixtures("either_sampler")
def test_greedy_takes_the_best_whatever_the_draw() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.9], [3.0, 0.0, 2.9]])
    assert sample(logits, torch.tensor([0.99, 0.99]), torch.tensor([True, True])).tolist() == [1, 0]


@needs_kernels
@pytest.mark.parametrize("spread", [0.5, 1.0, 4.0, 50.0])
@pytest.mark.parametrize("codes", [1, 5, 17, 256, 1000])
def test_the_kernels_draw_what_torch_draws(codes: int, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(codes)
    logits = (spread * torch.randn(1000, codes, generator=draw)).round(decimals=1)  # with ties: the first wins
    uniform, greedy = torch.rand(1000, generator=draw), torch.rand(1000, generator=draw) < 0.1
    drawn = sample(logits, uniform, greedy)
    monkeypatch.setattr(kernels, "available", lambda: False)
    different = drawn != sample(logits, uniform, greedy)
    assert not different[greedy].any()
    assert different.float().mean() <= 0.002  # a draw within a rounding of the border between two codes


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_frame_in_one_call_is_what_its_codes_are_one_by_one(
    tiny_states, tiny_model, batch: int, precision: str
) -> None:
    lm = StreamVoiceAnon.from_state_dicts(tiny_states, tiny_model.config, precision=precision).acoustic_lm
    draw = torch.Generator().manual_seed(batch)
    greedy = torch.arange(batch) == 2
    state = lm.fast_state(batch)
    assert state.writer is not None
    with torch.inference_mode():
        for _ in range(3):  # the caches are used again
            hidden = torch.randn(batch, lm.config.width, generator=draw)
            uniform = torch.rand(lm.config.codebooks, batch, generator=draw)
            codes, logits = state.writer(hidden, uniform, greedy, 0.9, 0.8)
            one_by_one, seen = write_one_by_one(lm, hidden, uniform, greedy)
            assert torch.equal(codes.T, one_by_one)
            assert torch.equal(logits, seen)


@needs_kernels
@pytest.mark.parametrize("codebooks", [3, 17])
@pytest.mark.parametrize("codes", [7, 37])
def test_frames_of_any_shape_are_written_in_one_call(codebooks: int, codes: int) -> None:
    sizes = AcousticLMConfig(width=40, heads=4, hidden=48, fast_layers=2, codebooks=codebooks, acoustic_codes=codes)
    lm = AcousticLM(sizes)
    initialise(lm, 0)
    pack(lm.eval().requires_grad_(False), "int8")
    draw = torch.Generator().manual_seed(0)
    hidden, uniform = 9 * torch.randn(2, 40, generator=draw), torch.rand(codebooks, 2, generator=draw)
    writer, greedy = lm.fast_state(2).writer, torch.tensor([False, True])
    assert writer is not None
    written, logits = writer(hidden, uniform, greedy, 0.9, 0.8)
    one_by_one, seen = write_one_by_one(lm, hidden, uniform, greedy)
    assert torch.equal(written.T, one_by_one)
    assert torch.equal(logits, seen)
    with pytest.raises(ValueError, match="1 hidden states where 2 sequences"):
        writer(hidden[:1], uniform[:, :1], greedy, 0.9, 0.8)


def write_one_by_one(lm: AcousticLM, hidden: Tensor, uniform: Tensor, greedy: Tensor) -> tuple[Tensor, Tensor]:
    left, seen = iter(uniform), []

    def choose(logits: Tensor) -> Tensor:
        seen.append(logits)
        return sample(logits, next(left), greedy, 0.9, 0.8)

    return lm.write_frame(hidden, choose, lm.fast_state(len(hidden))), torch.stack(seen)


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_utterance_does_not_depend_on_its_batch(tiny_states, tiny_model, voices, speech, precision: str) -> None:
    model = StreamVoiceAnon.from_state_dicts(tiny_states, tiny_model.config, precision=precision)
    waves = [speech(seconds) for seconds in (1.3, 0.4, 2.0, 0.02, 0.9, 1.1, 0.0)]
    chosen = [voices[i % 2] for i in range(len(waves))]
    together = model.anonymize(waves, chosen, range(10, 17))
    for i, (wave, voice) in enumerate(zip(waves, chosen, strict=True)):
        (alone,) = model.anonymize([wave], [voice], [10 + i])
        assert len(alone) == len(wave)
        assert torch.equal(together[i], alone)


@needs_kernels
def test_a_small_cache_changes_the_time_not_the_result(tiny_model: StreamVoiceAnon, voices, speech) -> None:
    waves = [speech(seconds) for seconds in (0.6, 0.3, 0.9)]
    chosen = [voices[0]] * 3
    wide = tiny_model.anonymize(waves, chosen, [1, 2, 3])
    narrow = tiny_model.anonymize(waves, chosen, [1, 2, 3], cache_bytes=1)
    assert all(torch.equal(a, b) for a, b in zip(wide, narrow, strict=True))


def test_seeds_decide_what_is_drawn(tiny_model: StreamVoiceAnon, voices, speech) -> None:
    first, again, other = tiny_model.anonymize([speech(0.5)] * 3, [voices[0]] * 3, [1, 1, 2**64 - 1])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_refilled_sequence_is_one_that_began_32_frames_ago(tiny_model: StreamVoiceAnon, voices, monkeypatch) -> None:
    lm, prompt = tiny_model.acoustic_lm, tiny_model.prompt(voices[0])  # 48 frames
    monkeypatch.setattr(lm, "config", replace(lm.config, max_frames=90))
    content = torch.randint(8192, (60,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        long = WriterBatch(lm, 1, 300)
        long.start(0, prompt, 0, None)
        written = [long.step({0: lm.embed_content(code)})[0] for code in content]
        acoustic = torch.stack(written[42 - 32 : 42], dim=1)  # the refill comes after 90 - 48 = 42 frames
        recent = Prompt(
            prompt.condition,
            torch.cat([prompt.content, content[10:42]]),
            torch.cat([prompt.acoustic, acoustic], dim=1),
        )
        short = WriterBatch(lm, 1, 300)
        monkeypatch.setattr(lm, "config", replace(lm.config, max_frames=10_000))
        short.start(0, recent, 0, None)
        expected = [short.step({0: lm.embed_content(code)})[0] for code in content[42:]]
    assert torch.equal(torch.stack(written[42:50]), torch.stack(expected[:8]))


@pytest.mark.parametrize("delay", [0, 3, 8])
def test_every_frame_is_written_across_refills(tiny_model: StreamVoiceAnon, voices, monkeypatch, delay: int) -> None:
    lm = tiny_model.acoustic_lm
    monkeypatch.setattr(lm, "config", replace(lm.config, max_frames=90))
    content = torch.randint(8192, (150,), generator=torch.Generator().manual_seed(3))
    codes = tiny_model.generate(content, voices[0], delay, greedy=True)
    assert codes.shape == (8, 150)


@pytest.mark.slow
@pytest.mark.skipif(not os.access(CLEAR, os.W_OK), reason="the peak of memory can be reset on Linux alone")
def test_memory_stays_flat_over_a_long_utterance(tiny_model: StreamVoiceAnon, voices, speech) -> None:
    """Two minutes after half of one: what is added beyond the waves themselves stays within 32 MiB."""
    short, wave = speech(30.0), speech(120.0)
    peaks = []
    for each in (short, wave):
        CLEAR.write_text("5")  # the peak begins anew: what ran before in this process says nothing
        (result,) = tiny_model.anonymize([each], [voices[0]])
        status = Path("/proc/self/status").read_text()
        peaks.append(1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))
    assert len(result) == len(wave)
    assert peaks[1] - peaks[0] < 4 * (len(wave) - len(short)) * 4 + 32 * 2**20


def test_what_is_held_at_once_does_not_grow_with_an_utterance(
    tiny_model: StreamVoiceAnon, voices, speech, monkeypatch
) -> None:
    """An hour is computed as a minute is: the longest chunk and the room of a sequence are the same."""
    longest: dict[str, int] = {}

    def watched(owner: Any, name: str, axis: int) -> None:
        function = getattr(owner, name)

        def watching(x: Tensor, *rest: Any) -> Any:
            longest[name] = max(longest.get(name, 0), x.shape[axis])
            return function(x, *rest)

        monkeypatch.setattr(owner, name, watching)

    room, lm = [], tiny_model.acoustic_lm
    initial_state = lm.initial_state
    monkeypatch.setattr(lm, "initial_state", lambda *sizes: room.append(sizes) or initial_state(*sizes))
    watched(tiny_model.content_encoder, "forward", 1)
    watched(tiny_model.codec, "decode", 2)
    seen = []
    for seconds in (40.0, 80.0):  # both are refilled: 768 frames are 36 seconds
        longest.clear()
        tiny_model.anonymize([speech(seconds)], [voices[0]])
        seen.append(dict(longest))
    assert seen[0] == seen[1]
    assert seen[0].keys() == {"forward", "decode"}
    assert room[0] == room[-1]


def test_an_empty_utterance_stays_empty(tiny_model: StreamVoiceAnon, voices) -> None:
    (result,) = tiny_model.anonymize([torch.zeros(0)], [voices[0]])
    assert result.shape == (0,)
    assert tiny_model.encode_content(torch.zeros(0)).shape == (0,)
    assert tiny_model.generate(torch.zeros(0, dtype=torch.int64), voices[0]).shape == (8, 0)


def test_a_wave_that_is_no_number_is_named(tiny_model: StreamVoiceAnon, voices, speech) -> None:
    with pytest.raises(ValueError, match=r"wave 1: .*not finite"):
        tiny_model.anonymize([speech(0.1), torch.full((5000,), float("nan"))], voices)


def test_two_channels_are_refused(tiny_model: StreamVoiceAnon) -> None:
    with pytest.raises(ValueError, match="one channel"):
        tiny_model.encode_content(torch.zeros(2, 5000))


def test_waves_and_voices_must_match(tiny_model: StreamVoiceAnon, voices, speech) -> None:
    with pytest.raises(ValueError, match="1 waves, 2 voices"):
        tiny_model.anonymize([speech(0.1)], voices)


def test_codes_out_of_range_are_refused(tiny_model: StreamVoiceAnon) -> None:
    with pytest.raises(ValueError, match="between 0 and 999"):
        tiny_model.decode_acoustic(torch.full((8, 2), 1000))


def test_plain_torch_writes_the_kernels_codes(tiny_model, torch_model, voices) -> None:
    content = torch.randint(8192, (20,), generator=torch.Generator().manual_seed(4))
    assert torch.equal(
        tiny_model.generate(content, voices[0], greedy=True), torch_model.generate(content, voices[0], greedy=True)
    )


def test_bfloat16_stays_close(tiny_states, tiny_model, voices) -> None:
    """The path that a GPU takes, on the CPU: logits of standard deviation near 1 move by a few hundredths."""
    model = StreamVoiceAnon.from_state_dicts(tiny_states, Config(**vars(tiny_model.config)), precision="bfloat16")
    logits = []
    with torch.inference_mode():
        for each in (tiny_model, model):
            condition = each.prompt(voices[0]).condition.unsqueeze(0)
            hidden, _ = each.acoustic_lm.slow(condition, each.acoustic_lm.initial_state(1, 33))
            logits.append(each.acoustic_lm.frame_logits(hidden[:, -1], torch.zeros(1, 8, dtype=torch.int64)).float())
    assert float((logits[0] - logits[1]).abs().mean()) < 0.05
    assert model.generate(torch.arange(5), voices[0]).shape == (8, 5)


def test_length_is_kept_to_the_sample(tiny_model: StreamVoiceAnon, voices, speech) -> None:
    for samples in (1, 511, 512, FRAME_SAMPLES - 1, FRAME_SAMPLES, FRAME_SAMPLES + 1):
        (result,) = tiny_model.anonymize([speech(1.0)[:samples]], [voices[0]])
        assert result.shape == (samples,)


def test_how_a_model_draws_is_its_own(tiny_model: StreamVoiceAnon, voices, monkeypatch) -> None:
    """With next to no probability kept, what is drawn is the best code always."""
    content = torch.arange(12)
    drawn = tiny_model.generate(content, voices[0])
    monkeypatch.setattr(tiny_model.acoustic_lm, "config", replace(tiny_model.acoustic_lm.config, top_p=1e-6))
    best = tiny_model.generate(content, voices[0])
    assert torch.equal(best, tiny_model.generate(content, voices[0], greedy=True))
    assert not torch.equal(best, drawn)
