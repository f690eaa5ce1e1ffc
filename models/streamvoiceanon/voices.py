"""Pseudo-voices: what the model speaks with, prepared once from prompts and kept in a voice bank.

A voice is the prompt's content and acoustic codes, its style vector and its timbre latents. A bank is one Parquet
file, a row a voice, that any data tool can open; it holds no audio, but its codes can be decoded to the prompt, so a
bank is as personal as the prompts it was built from.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.streamvoiceanon.frontend import PUBLISHED

FORMAT = b"streamvoiceanon-voices-1"


@dataclass(frozen=True)
class Voice:
    """Content codes [P], acoustic codes [codebooks, P], style [192] and timbre [32, 128] of a prompt of P frames.

    The small shape's style is [160], and its timbre [0, 0]: it has none.
    """

    content: Tensor
    acoustic: Tensor
    style: Tensor
    timbre: Tensor
    voice_id: str = ""
    frame_seconds: float = PUBLISHED.seconds

    @property
    def frames(self) -> int:
        """Length of the prompt in frames."""
        return self.content.shape[0]

    @property
    def seconds(self) -> float:
        """Length of the prompt in seconds."""
        return self.frames * self.frame_seconds


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless `alpha` lies in [0, 1]."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be between 0 (noise alone) and 1 (the prompt's voice), not {alpha}")


def mix_with_noise(voice: Voice, alpha: float, generator: torch.Generator | None) -> Voice:
    """Mix style and timbre, each, with Gaussian noise of its own mean and deviation: alpha x + (1 - alpha) noise.

    Raises ValueError where `alpha` is outside [0, 1].
    """
    check_alpha(alpha)
    if alpha == 1.0:
        return voice

    def mixed(x: Tensor) -> Tensor:
        if not x.numel():
            return x
        noise = torch.randn(x.shape, generator=generator) * x.std() + x.mean()
        return alpha * x + (1.0 - alpha) * noise

    return replace(voice, style=mixed(voice.style), timbre=mixed(voice.timbre))


class VoiceBank:
    """Voices to draw from."""

    def __init__(self, voices: Sequence[Voice]) -> None:
        if not voices:
            raise ValueError("a voice bank needs at least one voice")
        names = [voice.voice_id for voice in voices]
        if len(set(names)) < len(names):
            raise ValueError("two voices of one bank have the same voice_id")
        self.voices = tuple(voices)

    def __len__(self) -> int:
        return len(self.voices)

    def draw(self, seed: int) -> Voice:
        """Return the voice that `seed` stands for; all are equally likely."""
        return self.voices[random.Random(seed).randrange(len(self.voices))]

    def save(self, path: Path) -> None:
        """Write the bank as Parquet."""
        table = pa.table(
            {
                "voice_id": pa.array([voice.voice_id for voice in self.voices], pa.string()),
                "frames": pa.array([voice.frames for voice in self.voices], pa.int32()),
                "content": pa.array([voice.content.numpy() for voice in self.voices], pa.list_(pa.int32())),
                "acoustic": pa.array([voice.acoustic.flatten().numpy() for voice in self.voices], pa.list_(pa.int32())),
                "style": pa.array([voice.style.numpy() for voice in self.voices], pa.list_(pa.float32())),
                "timbre": pa.array([voice.timbre.flatten().numpy() for voice in self.voices], pa.list_(pa.float32())),
                "timbre_latents": pa.array([len(voice.timbre) for voice in self.voices], pa.int32()),
                "frame_seconds": pa.array([voice.frame_seconds for voice in self.voices], pa.float64()),
            }
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({b"format": FORMAT}), path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "VoiceBank":
        """Read a bank. Raises FileNotFoundError, or ValueError where the file is not a voice bank."""
        if not path.is_file():
            raise FileNotFoundError(f"no voice bank at {path}: build one with `voxveil voices build`")
        try:
            with pq.ParquetFile(path) as file:  # `read_table` imports pandas, half a second of every start
                table = file.read()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a voice bank: {error}") from None
        if (table.schema.metadata or {}).get(b"format") != FORMAT:
            raise ValueError(f"{path} is not a voice bank of this version")
        return cls([_voice(row) for row in table.to_pylist()])


def _voice(row: dict) -> Voice:
    timbre = torch.from_numpy(np.asarray(row["timbre"], dtype=np.float32))
    return Voice(
        content=torch.tensor(row["content"], dtype=torch.int64),
        acoustic=torch.tensor(row["acoustic"], dtype=torch.int64).view(-1, row["frames"]),
        style=torch.from_numpy(np.asarray(row["style"], dtype=np.float32)),
        timbre=timbre.view(row["timbre_latents"], -1) if len(timbre) else timbre.view(0, 0),
        voice_id=row["voice_id"],
        frame_seconds=row.get("frame_seconds", PUBLISHED.seconds),  # banks of before had one length of frame
    )
