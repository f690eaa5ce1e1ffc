"""The anonymizer that changes nothing: the control of an audit. Whatever the attackers say of it must be failure."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Identity:
    """Hands every wave back as it came."""

    def __init__(self, sample_rate: int = 16_000) -> None:
        self.sample_rate = sample_rate

    def draw_voice(self, seed: int) -> None:
        """There are no voices: the speaker keeps their own."""

    def anonymize(
        self,
        waves: Sequence[Tensor],
        voices: Sequence[None],
        seeds: Sequence[int] | None = None,
        usual_pitch: Sequence[float | None] | None = None,
    ) -> list[Tensor]:
        """Return copies of the waves [samples]."""
        return [wave.clone() for wave in waves]

    def open_stream(self, voice: None, seed: int = 0) -> "IdentityStream":
        """Open a stream without delay."""
        return IdentityStream()


class IdentityStream:
    """Hands every chunk back as it came."""

    latency = 0.0

    def __init__(self) -> None:
        self.closed = False

    def push(self, samples: Tensor) -> Tensor:
        """Return a copy of the samples [n]."""
        if self.closed:
            raise ValueError("the stream is closed: open a new one for more audio")
        return samples.clone()

    def finish(self) -> Tensor:
        """Return nothing, and close the stream."""
        if self.closed:
            raise ValueError("the stream is closed already")
        self.closed = True
        return torch.zeros(0)
