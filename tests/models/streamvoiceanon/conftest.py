"""A StreamVoiceAnon small enough to be tested in seconds, and the full-size one with the vectors' weights."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from models.streamvoiceanon import Config, StreamVoiceAnon, checkpoint, kernels
from models.streamvoiceanon.acoustic_lm import AcousticLMConfig
from models.streamvoiceanon.codec import CodecConfig
from models.streamvoiceanon.config import build_networks
from models.streamvoiceanon.content_encoder import ContentEncoderConfig

DATA = Path(__file__).with_name("data")
sys.path.insert(0, str(DATA))

from fill_weights import fill_tensor  # noqa: E402

TINY = Config(
    ContentEncoderConfig(32, (1, 1, 1, 1), (16, 16, 32, 32), heads=2, hidden=32, layers=2, window=8),
    CodecConfig(32, (1, 1, 1, 1), (16, 16, 32, 32), kernels=(3, 7), dilations=(1, 3)),
    AcousticLMConfig(width=32, heads=2, hidden=64, slow_layers=2, fast_layers=1),
    style_layers=(1, 1, 1),
    timbre_channels=64,
    timbre_heads=2,
)
States = dict[str, dict[str, Tensor]]


def fill(networks: dict[str, nn.Module]) -> States:
    """Deterministic weights for networks of any size; rotary tables are the true ones."""
    return {
        name: {
            key: torch.from_numpy(fill_tensor(key, tuple(value.shape)))
            if value.is_floating_point() and value.dtype != torch.bfloat16
            else value.clone()
            for key, value in network.state_dict().items()
        }
        for name, network in networks.items()
    }


@pytest.fixture(scope="session")
def tiny_states() -> States:
    states = fill(build_networks(TINY))
    for state in states.values():
        for key, value in state.items():
            if value.is_meta:
                state[key] = torch.zeros((), dtype=value.dtype)
    return states


@pytest.fixture(scope="session")
def tiny_model(tiny_states: States) -> StreamVoiceAnon:
    """Exact, with the compiled kernels where there is a compiler."""
    return StreamVoiceAnon.from_state_dicts(tiny_states, TINY)


@pytest.fixture(scope="session")
def torch_model(tiny_states: States) -> StreamVoiceAnon:
    """Exact, in plain PyTorch, as on a machine without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "available", lambda: False)
        return StreamVoiceAnon.from_state_dicts(tiny_states, TINY)


@pytest.fixture(scope="session")
def speech() -> Callable[[float], Tensor]:
    """Speech of any length: the synthetic recording, over and over."""
    wave = read_wave("source")
    return lambda seconds: wave.repeat(int(seconds * 44_100) // len(wave) + 1)[: int(seconds * 44_100)]


def read_wave(name: str) -> Tensor:
    return torch.from_numpy(soundfile.read(DATA / f"{name}.flac", dtype="float32")[0])


@pytest.fixture(scope="session")
def prompt_wave() -> Tensor:
    return read_wave("prompt")


@pytest.fixture(scope="session")
def vectors() -> dict[str, Tensor]:
    with np.load(DATA / "vectors.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


@pytest.fixture(scope="session")
def full_states() -> States:
    """The weights that the vectors were computed with, under the published names, training-only ones left out."""
    unused = ("head.", "quantizer.post_module.", "decoder.model.embeddings.")
    return {
        network: {
            key: torch.from_numpy(fill_tensor(key, tuple(shape))).to(getattr(torch, dtype))
            for key, (shape, dtype) in entry["tensors"].items()
            if shape
            and "mask" not in key
            and not (key.startswith(unused) and network in ("content_encoder", "acoustic_lm"))
        }
        for network, entry in checkpoint.contract().items()
    }


@pytest.fixture(scope="session")
def full_model(full_states: States) -> StreamVoiceAnon:
    return StreamVoiceAnon.from_state_dicts(full_states)
