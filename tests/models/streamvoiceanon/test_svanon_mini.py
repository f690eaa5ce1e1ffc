"""The small shape: 16 kHz, at most 12 million weights, the same class, streamed as exactly as the published one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from models.catalogue import AnonymizerSpec, load_anonymizer
from models.streamvoiceanon import StreamVoiceAnon, Voice, VoiceBank
from models.streamvoiceanon.checkpoint import WEIGHTS_FILE, load_networks, save_converted
from models.streamvoiceanon.config import build_networks
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.spectral import SpectralConfig, SpectralGenerator, overlap_add
from models.streamvoiceanon.training.initial import fresh_networks
from pipelines.model import model_app

FRAME = 640  # samples, 40 ms


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    return {name: network.state_dict() for name, network in fresh_networks(MINI, seed=0).items()}


@pytest.fixture(scope="module")
def mini(states: dict[str, dict[str, Tensor]]) -> StreamVoiceAnon:
    return StreamVoiceAnon.from_state_dicts(states, MINI)


@pytest.fixture(scope="module")
def low_speech(speech: Callable[[float], Tensor]) -> Tensor:
    """Three seconds at 16 kHz; how well it was resampled does not matter here."""
    return torch.nn.functional.interpolate(speech(3.0).view(1, 1, -1), 3 * 16_000, mode="linear").flatten()


@pytest.fixture(scope="module")
def voice(mini: StreamVoiceAnon, low_speech: Tensor) -> Voice:
    return mini.make_voice(low_speech[:24_000], voice_id="one")


def test_it_is_small(mini: StreamVoiceAnon) -> None:
    assert mini.parameters_held() <= 12_000_000


def test_it_speaks_within_the_latency_that_is_promised(mini: StreamVoiceAnon, voice: Voice) -> None:
    """(2 + 1) frames of 40 ms leave 60 of the 180 ms to computing, which a frame has 40 ms for at most."""
    assert mini.open_stream(voice).latency == pytest.approx(0.120)


@pytest.mark.parametrize("chunk", [500, 640, 5_000])
def test_a_stream_gives_what_anonymizing_the_whole_gives(mini, voice, low_speech, chunk: int) -> None:
    wave = low_speech[: 40 * FRAME + 100]
    stream = mini.open_stream(voice, seed=7)
    streamed = torch.cat([*(stream.push(part) for part in wave.split(chunk)), stream.finish()])
    (whole,) = mini.anonymize([wave], [voice], [7])
    assert len(streamed) == len(wave)
    assert torch.allclose(streamed, whole, atol=1e-5, rtol=0)


def test_a_stream_lags_by_no_more_than_its_latency(mini, voice, low_speech) -> None:
    stream = mini.open_stream(voice, delay=3)
    pushed = returned = 0
    for part in low_speech[:16_000].split(300):
        pushed += len(part)
        returned += len(stream.push(part))
        assert pushed - returned <= round(stream.latency * 16_000)


def test_nothing_hears_the_future(mini: StreamVoiceAnon, low_speech: Tensor) -> None:
    """A change from the 30th frame on leaves every code and every decoded sample before it as it was."""
    wave = low_speech[: 50 * FRAME]
    changed = torch.cat([wave[: 30 * FRAME], torch.randn(20 * FRAME)])
    assert torch.equal(mini.encode_content(wave)[:30], mini.encode_content(changed)[:30])
    codes, other = mini.encode_acoustic(wave), mini.encode_acoustic(changed)
    assert torch.equal(codes[:, :30], other[:, :30])
    assert not torch.equal(codes, other)
    before = slice(0, 30 * FRAME)
    assert torch.allclose(mini.decode_acoustic(codes)[before], mini.decode_acoustic(other)[before], atol=1e-6)


def test_the_spectral_head_gives_the_same_samples_in_pieces_of_any_length() -> None:
    head = SpectralGenerator(16, 320, SpectralConfig(hop=160, window=640, depth=2)).eval()
    x = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, _ = head(x, head.initial_state(2))
        state, parts = head.initial_state(2), []
        for part in x.split([1, 2, 7, 1, 13], dim=1):
            samples, state = head(part, state)
            parts.append(samples)
    assert whole.shape == (2, 24 * 320)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-6)


def test_overlapping_windows_add_up_to_one() -> None:
    window = torch.hann_window(640) * 2 * 160 / 640
    samples, rest = overlap_add(window.expand(1, 20, 640), torch.zeros(1, 480))
    assert torch.allclose(samples[0, 480:], torch.ones(20 * 160 - 480), atol=1e-6)
    assert rest.shape == (1, 480)


def test_a_hop_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide 320"):
        SpectralGenerator(16, 320, SpectralConfig(hop=150, window=600, depth=1))


def test_a_style_is_the_voices_spectrum_whatever_the_level(mini: StreamVoiceAnon, low_speech: Tensor) -> None:
    loud, quiet = mini.make_voice(low_speech), mini.make_voice(0.5 * low_speech)
    assert loud.style.shape == (160,)
    assert loud.timbre.shape == (0, 0)
    assert float((loud.style - quiet.style).abs().max()) < 1e-4
    filtered = torchaudio_lowpass(low_speech)
    assert float((loud.style - mini.make_voice(filtered).style).abs().max()) > 0.5


def torchaudio_lowpass(wave: Tensor) -> Tensor:
    import torchaudio

    return torchaudio.functional.lowpass_biquad(wave, 16_000, 1_000.0)


def test_a_folder_and_a_bank_are_all_that_a_job_needs(mini, states, voice, low_speech, tmp_path: Path) -> None:
    networks = build_networks(MINI)
    load_networks(networks, states)
    save_converted(tmp_path / "model", networks, MINI, {})
    VoiceBank([voice]).save(tmp_path / "bank.parquet")
    spec = AnonymizerSpec("streamvoiceanon", str(tmp_path / "model"), str(tmp_path / "bank.parquet"))
    loaded = load_anonymizer(spec, 16_000)
    assert loaded.sample_rate == 16_000
    (wave,) = loaded.anonymize([low_speech], [loaded.draw_voice(3)])
    assert len(wave) == len(low_speech)
    assert StreamVoiceAnon.from_pretrained(tmp_path / "model").config == MINI
    assert json.loads((tmp_path / "model" / "streamvoiceanon.json").read_text())["config"]["speaker"] == "statistics"


def test_a_bank_keeps_the_length_of_a_frame(voice: Voice, tmp_path: Path) -> None:
    VoiceBank([voice]).save(tmp_path / "bank.parquet")
    (loaded,) = VoiceBank.load(tmp_path / "bank.parquet").voices
    assert loaded.seconds == voice.seconds == pytest.approx(37 * 0.04)
    assert loaded.timbre.shape == (0, 0)
    assert torch.equal(loaded.style, voice.style)


def test_a_voice_of_another_shape_is_refused(mini, tiny_model, prompt_wave, low_speech) -> None:
    with pytest.raises(ValueError, match="another shape: build its bank anew"):
        mini.anonymize([low_speech], [tiny_model.make_voice(prompt_wave)])


def test_a_compacted_model_is_a_third_as_big_and_says_nearly_the_same(
    states: dict[str, dict[str, Tensor]], tmp_path: Path, low_speech: Tensor
) -> None:
    networks = build_networks(MINI)
    load_networks(networks, states)
    save_converted(tmp_path / "plain", networks, MINI, {})
    result = CliRunner().invoke(model_app, ["compact", str(tmp_path / "plain"), str(tmp_path / "compact")])
    assert result.exit_code == 0, result.output
    sizes = [(tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("plain", "compact")]
    assert sizes[1] < sizes[0] / 3
    plain, compact = (
        StreamVoiceAnon.from_pretrained(tmp_path / name, precision="float32") for name in ("plain", "compact")
    )
    codes = [model.encode_acoustic(low_speech) for model in (plain, compact)]
    assert (codes[0] == codes[1]).float().mean() > 0.8
    tables = [model.content_encoder.quantizer.pre_module.freqs_cis for model in (plain, compact)]
    assert torch.equal(*tables), "what is computed and not learnt stays exact"
