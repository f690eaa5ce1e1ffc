"""StreamVoiceAnon in a size for tests: a checkpoint and a voice bank on disk, as `voxveil serve` loads them."""

import importlib.util
from pathlib import Path

import torch

from models.streamvoiceanon import StreamVoiceAnon, VoiceBank, checkpoint
from models.streamvoiceanon.config import build_networks
from models.streamvoiceanon.frontend import FRAME_SAMPLES

_spec = importlib.util.spec_from_file_location(
    "tiny_streamvoiceanon", Path(__file__).parents[1] / "models" / "streamvoiceanon" / "conftest.py"
)
assert _spec
assert _spec.loader
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

VOICES = ("anna", "boris", "clara")


def write_tiny_network(folder: Path) -> tuple[Path, Path]:
    """Write a checkpoint and a bank of three voices; return their paths."""
    states = tiny.fill(build_networks(tiny.TINY))
    for state in states.values():
        for key, value in state.items():
            if value.is_meta:
                state[key] = torch.zeros((), dtype=value.dtype)
    networks = build_networks(tiny.TINY)
    checkpoint.load_networks(networks, states)
    checkpoint.save_converted(folder / "model", networks, tiny.TINY, {})
    model = StreamVoiceAnon.from_pretrained(folder / "model", precision="float32")
    prompts = [
        0.1 * torch.randn(12 * FRAME_SAMPLES, generator=torch.Generator().manual_seed(seed)) for seed in range(3)
    ]
    bank = VoiceBank([model.make_voice(prompt, voice_id=name) for name, prompt in zip(VOICES, prompts, strict=True)])
    bank.save(folder / "voices.parquet")
    return folder / "model", folder / "voices.parquet"
