"""The kernels are built for the processor at hand; what they are on smaller ones is built and compared here."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.streamvoiceanon import StreamVoiceAnon, kernels
from models.streamvoiceanon.compact import compacted, expanded
from models.streamvoiceanon.conv import ConvNeXtBlock
from models.streamvoiceanon.transformer import Sight, TransformerState, new_caches, rotary_table, run_layers

NEEDS = {  # what gcc calls a processor, and what Linux says that it must know
    "x86-64": set(),
    "x86-64-v3": {"avx2", "fma", "bmi2"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


@pytest.fixture(params=NEEDS)
def variant_model(
    request: pytest.FixtureRequest,
    tiny_states: dict[str, dict[str, Tensor]],
    tiny_model: StreamVoiceAnon,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[StreamVoiceAnon]:
    """A model whose kernels were built for one kind of processor."""
    if platform.machine() != "x86_64" or not kernels.available():
        pytest.skip("needs an x86 processor and a C compiler")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    known = set(next(line for line in lines if line.startswith("flags")).split())
    if not NEEDS[request.param] <= known:
        pytest.skip(f"this processor cannot run {request.param}")
    flags = tuple(f"-march={request.param}" if flag.startswith("-march") else flag for flag in kernels.FLAGS)
    monkeypatch.setattr(kernels, "FLAGS", flags)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels._library.cache_clear()
    yield StreamVoiceAnon.from_state_dicts(tiny_states, tiny_model.config)
    kernels._library.cache_clear()


def test_every_processor_computes_what_plain_torch_does(
    variant_model: StreamVoiceAnon, torch_model: StreamVoiceAnon, prompt_wave: Tensor
) -> None:
    voice = torch_model.make_voice(prompt_wave)
    hidden = []
    with torch.inference_mode():
        for model in (variant_model, torch_model):
            lm = model.acoustic_lm
            condition = model.prompt(voice).condition.unsqueeze(0)
            vectors = torch.cat([condition, lm.embed_content(voice.content).unsqueeze(0)], dim=1)
            state = lm.initial_state(1, vectors.shape[1])
            places, _ = lm.slow(vectors, state)
            hidden.append(lm.frame_logits(places[0, -20:], voice.acoustic[:, :20].T))
    assert torch.allclose(*hidden, atol=1e-4, rtol=1e-4)
    assert torch.allclose(
        variant_model.decode_acoustic(voice.acoustic), torch_model.decode_acoustic(voice.acoustic), atol=1e-4, rtol=0
    )


def test_on_every_processor_a_stream_gives_what_the_whole_gives(
    variant_model: StreamVoiceAnon, prompt_wave: Tensor
) -> None:
    voice = variant_model.make_voice(prompt_wave)
    wave = prompt_wave[: variant_model.sample_rate]
    stream = variant_model.open_stream(voice, seed=3)
    streamed = torch.cat([*(stream.push(part) for part in wave.split(1_777)), stream.finish()])
    (whole,) = variant_model.anonymize([wave], [voice], [3])
    assert torch.equal(streamed, whole)


def test_on_every_processor_features_are_the_same_however_a_wave_is_cut(
    variant_model: StreamVoiceAnon, prompt_wave: Tensor
) -> None:
    encoder, codec = variant_model.content_encoder, variant_model.codec
    samples = prompt_wave[: 20 * variant_model.frame_samples].unsqueeze(0)
    networks = (
        (encoder.features, encoder.initial_state(1, chunk=20), encoder.initial_state(1, chunk=1)),
        (codec.features, codec.initial_encoder_state(1), codec.initial_encoder_state(1)),
    )
    with torch.inference_mode():
        for features, whole_state, state in networks:
            whole, _ = features(samples, whole_state)
            parts = []
            for frame in samples.split(variant_model.frame_samples, dim=1):
                part, state = features(frame, state)
                parts.append(part)
            assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("rows", range(1, 15))
@pytest.mark.parametrize("outputs", [5, 16, 40, 70])
@pytest.mark.parametrize("kind", kernels.KINDS)
def test_a_row_is_the_same_whatever_is_beside_it(rows: int, outputs: int, kind: kernels.WeightType) -> None:
    """Tiles of all heights and widths sum in one order."""
    draw = torch.Generator().manual_seed(rows)
    packed = kernels.pack_weights(torch.randn(outputs, 1, 33, generator=draw), kind)
    x = torch.randn(1, rows, 33, generator=draw)
    together = kernels.convolve(x, packed, None)
    alone = torch.cat([kernels.convolve(x[:, i : i + 1].contiguous(), packed, None) for i in range(rows)], dim=1)
    assert torch.equal(together, alone)


def test_keys_and_values_in_bfloat16_are_those_of_float32_but_rounded(variant_model: StreamVoiceAnon) -> None:
    layers = variant_model.acoustic_lm.decoder.model.layers
    head_width = layers[0].packed.weights[0].inputs // layers[0].packed.heads  # type: ignore[union-attr]
    x = torch.randn(2, 30, layers[0].packed.weights[0].inputs, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    results, states = [], []
    for dtype in (torch.float32, torch.bfloat16):
        caches = new_caches(layers, 2, 40, dtype)
        state = TransformerState(caches, torch.zeros(2, dtype=torch.int64))
        for part in x.split((11, 1, 18), dim=1):
            sight = Sight(state, part.shape[1], 40, rotary_table(head_width))
            results.append(run_layers(layers, part, caches, sight))
            state = state.moved(part.shape[1])
        states.append(caches)
    exact, rounded = torch.cat(results[:3], dim=1), torch.cat(results[3:], dim=1)
    assert torch.equal(states[1][0].keys, states[0][0].keys.bfloat16())  # of the first layer, whose input is the same
    # A key is off by 2^-9, and what is attended to by no more; the layers add to their input, which is exact.
    assert 0 < (exact - rounded).abs().max() < 0.02 * exact.std()


@pytest.mark.usefixtures("variant_model")
@pytest.mark.parametrize("kind", kernels.KINDS)
def test_every_kind_of_weights_is_read_as_it_was_packed(kind: kernels.WeightType) -> None:
    draw = torch.Generator().manual_seed(1)
    weight, x = torch.randn(40, 3, 24, generator=draw), torch.randn(2, 20, 24, generator=draw)
    packed = kernels.pack_weights(weight, kind)
    if packed.scale is not None:
        scale = packed.scale.view(-1, 1, 1)
        weight = (weight / scale).round() * scale
    expected = F.conv1d(x.transpose(1, 2), weight.transpose(1, 2), dilation=2).transpose(1, 2)
    assert torch.allclose(kernels.convolve(x, packed, None, dilation=2), expected, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("variant_model")
@pytest.mark.parametrize("kind", ["float32", "int16"])
def test_a_convnext_block_computes_what_plain_torch_does(kind: kernels.WeightType) -> None:
    torch.manual_seed(2)
    plain, packed = ConvNeXtBlock(48).eval(), ConvNeXtBlock(48).eval()
    plain.gamma.data.uniform_(0.5, 2.0)
    packed.load_state_dict(plain.state_dict())
    packed.pack(kind)
    x = torch.randn(2, 12, 48)
    with torch.inference_mode():
        expected, after = plain(x, plain.initial_state(2))
        computed, packed_after = packed(x, packed.initial_state(2))
    assert torch.allclose(computed, expected, atol=2e-4, rtol=0)  # int16 is off by 2^-16 of a row's largest weight
    assert torch.equal(packed_after, after)


def test_weights_that_were_kept_as_int8_are_packed_as_int8_and_no_less_exactly() -> None:
    draw = torch.Generator().manual_seed(3)
    weight, x = torch.randn(48, 1, 64, generator=draw), torch.randn(1, 6, 64, generator=draw)
    kept = expanded(compacted({"w": torch.cat([weight, weight], 1).flatten(1)}, {"w"}))["w"].unsqueeze(1)
    packed = kernels.pack_weights(kept, "int16")
    assert packed.function == "convolve_i8"
    wide = torch.cat([x, x], 2)
    assert torch.allclose(kernels.convolve(wide, packed, None), F.linear(wide, kept.squeeze(1)), atol=1e-4, rtol=0)
    assert kernels.pack_weights(weight, "int16").function == "convolve_i16"
    together, kind = kernels.pack_together([kept, kept], "int16")
    assert (kind, {part.function for part in together}) == ("int8", {"convolve_i8"})
    together, kind = kernels.pack_together([kept, weight], "int16")
    assert (kind, {part.function for part in together}) == ("int16", {"convolve_i16"}), "one kernel reads both"
