"""Prosody, how something is said: what of it is kept, in one place.

Pitch is heard as codes, which a share of the movement may be taken from before the language model reads them; loudness
and brightness are followed by what is spoken. Attackers know people by how they move as well as by their voices, so a
model may have a reduced prosody beside its full one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.streamvoiceanon.brightness import Brightness
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.loudness import Loudness


@dataclass(frozen=True)
class ProsodyConfig:
    """How much of it is kept.

    `contour` is the share of the pitch's movement, 0 to 1, of a model that hears any; `loudness` and `brightness` are
    decibels by which they are followed at most, 0: not at all.
    """

    contour: float = 1.0
    loudness: float = 0.0
    brightness: float = 0.0

    def check(self) -> None:
        """Raise ValueError where something is out of range."""
        if not (isinstance(self.contour, int | float) and 0.0 <= self.contour <= 1.0):
            raise ValueError(f"contour is a share between 0 and 1, not {self.contour!r}")
        for name, most in (("loudness", self.loudness), ("brightness", self.brightness)):
            if not (isinstance(most, int | float) and 0.0 <= most < math.inf):
                raise ValueError(f"{name} is decibels from 0 on, not {most!r}")


class ProsodyFollower:
    """Loudness and brightness of one stream: `hear` its frames, and let what is spoken `follow` them, a frame each."""

    def __init__(self, config: ProsodyConfig, frames: FrameConfig) -> None:
        # Loudness comes last: what is made brighter is louder.
        self._followed: list[Brightness | Loudness] = []
        if config.brightness:
            self._followed.append(Brightness(config.brightness, frames))
        if config.loudness:
            self._followed.append(Loudness(config.loudness))

    def hear(self, samples: Tensor) -> None:
        """Take the next frame that was heard, [samples of a frame]."""
        for each in self._followed:
            each.hear(samples)

    def follow(self, samples: Tensor) -> Tensor:
        """Map the frame [n] that says the first that was heard and not yet followed to that frame, said alike."""
        for each in self._followed:
            samples = each.follow(samples)
        return samples


def narrowing(pitch_codes: int, share: float) -> Tensor:
    """Return by how many each code of pitch changes that is left a share of its distance to the one in the middle.

    [codes], int64; empty where nothing changes.
    """
    if share == 1.0 or not pitch_codes:
        return torch.zeros(0, dtype=torch.int64)
    codes, middle = torch.arange(pitch_codes), pitch_codes // 2
    steps = ((codes - middle) * share).round().long() + middle - codes
    steps[0] = 0  # no pitch
    return steps


def narrow_contour(content: Tensor, steps: Tensor) -> Tensor:
    """Leave content, [...] or [..., n, 2], less of the pitch's movement, as `narrowing` has it."""
    if not len(steps):
        return content
    if not content.is_floating_point():
        return content + steps[content % len(steps)]
    codes = content[..., 0]
    return torch.stack([codes + steps[(codes % len(steps)).long()], content[..., 1]], dim=-1)
