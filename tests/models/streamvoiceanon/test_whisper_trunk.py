"""Whisper's encoder as a causal trunk: streamed exactly, without end, and with Whisper's own weights."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from models import registry
from models.streamvoiceanon import kernels
from models.streamvoiceanon.content_encoder import ContentEncoder, ContentEncoderConfig
from models.streamvoiceanon.linear import pack
from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.whisper_weights import load_whisper, read_ctranslate2
from models.streamvoiceanon.whisper_trunk import RING, WhisperConfig, WhisperMel, WhisperTrunk, ring_table
from models.whisper import Whisper

SAMPLE = Path(__file__).parents[3] / "sample" / "english" / "audio"
TINY = ContentEncoderConfig(
    depths=(),
    widths=(16,),
    heads=2,
    hidden=16,
    layers=1,
    window=4,
    bits=6,
    whisper=WhisperConfig(width=16, heads=2, hidden=16, layers=2, window=6),
)


@pytest.fixture(scope="module")
def whisper_folder() -> Path:
    return registry.resolve(registry.PROFILES["embedded"]["whisper"]).path


@pytest.mark.parametrize("pitches", [0, 8])
def test_streamed_codes_are_those_of_the_whole_also_once_around_the_ring(pitches: int) -> None:
    encoder = ContentEncoder(replace(TINY, pitch_codes=pitches), SMALL.frames).eval()
    initialise(encoder, 0)
    frames = RING // 2 + 40
    samples = torch.randn(1, frames * SMALL.frames.samples, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.inference_mode():
        whole, _ = encoder(samples, encoder.initial_state(1, frames))
        state, streamed = encoder.initial_state(1, 1), []
        for frame in samples.split(SMALL.frames.samples, dim=1):
            codes, state = encoder(frame, state)
            streamed.append(codes)
    assert torch.equal(torch.cat(streamed, dim=1), whole)
    assert len(whole.unique()) > 8


def test_neighbours_on_the_ring_are_alike_wherever_they_are() -> None:
    table = ring_table(64)
    for distance in (1, 7, 90):
        likeness = (table * table.roll(-distance, dims=0)).sum(1)
        assert likeness.std() < 1e-4
        assert likeness[0] < (table[0] * table[0]).sum()


def test_with_whispers_weights_and_an_unlimited_sight_it_says_what_whisper_says(
    whisper_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, mel = WhisperTrunk(WhisperConfig(window=1_500)).eval(), WhisperMel(80)
    load_whisper(trunk, whisper_folder)
    wave, _ = soundfile.read(sorted(SAMPLE.glob("*.flac"))[0], dtype="float32")
    encoding = Whisper(whisper_folder, threads=2).encode([wave])[0]
    wanted = torch.from_numpy(encoding.windows[0].astype(np.float32))[: encoding.frames[0]]
    monkeypatch.setattr("models.streamvoiceanon.whisper_trunk.Sight.mask", None)
    ahead = torch.from_numpy(wave[200:])  # what is causal hears 200 samples late
    padded = torch.nn.functional.pad(ahead, (0, 20 * 16_000 - len(ahead))).unsqueeze(0)
    with torch.inference_mode():
        bands, _ = mel(padded, mel.initial_state(1))
        heard, _ = trunk(bands, trunk.initial_state(1, bands.shape[1] // 2))
    likeness = torch.nn.functional.cosine_similarity(heard[0, : len(wanted)], wanted, dim=1)
    assert likeness.median() > 0.98  # its floor and its positions are others


@pytest.mark.skipif(not kernels.available(), reason="needs a C compiler")
def test_packed_it_computes_what_plain_torch_does_and_the_same_in_any_pieces() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(width=48, heads=3, hidden=96, layers=2, window=20)
    plain, packed = WhisperTrunk(config).eval(), WhisperTrunk(config).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    packed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 120, 80)

    def pieces(trunk: WhisperTrunk, length: int) -> torch.Tensor:
        state, heard = trunk.initial_state(2, 60, torch.tensor([0, 7])), []
        for part in x.split(length, dim=1):
            y, state = trunk(part, state)
            heard.append(y)
        return torch.cat(heard, dim=1)

    with torch.inference_mode():
        expected = pieces(plain, 40)
        pack(packed, "float32")
        whole = pieces(packed, 120)
        assert (whole - expected).abs().max() < 1e-4 * expected.std()
        assert torch.equal(pieces(packed, 2), whole)
        assert torch.equal(pieces(packed, 14), whole)


def test_weights_that_do_not_fit_are_refused(whisper_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not fit: conv1.conv.weight should be \[16, 80, 3\]"):
        load_whisper(WhisperTrunk(WhisperConfig(width=16, heads=2)), whisper_folder)
    other = tmp_path / "model.bin"
    other.write_bytes(struct.pack("<I", 5))
    with pytest.raises(ValueError, match="layout 5, not 6"):
        read_ctranslate2(other)
    other.write_bytes((whisper_folder / "model.bin").read_bytes()[:1_000])
    with pytest.raises(ValueError, match="ends too early"):
        read_ctranslate2(other)
