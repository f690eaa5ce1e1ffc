"""Loudness: what is spoken rises and falls as what is heard.

Content codes tell words and pitch, and not how loud they are said, which is much of what emotion sounds like.
"""

import math

import torch
from torch import Tensor

from models.streamvoiceanon.following import Follower, Level

NEARER = 0.4  # share of the way to what is wanted that a frame goes: what changes at once sounds like pumping


class Loudness(Follower):
    """The loudness of one stream: `hear` its frames, and let what is spoken `follow` them, a frame each."""

    def __init__(self, most: float) -> None:
        """Frames become louder or quieter by `most` decibels at most."""
        super().__init__(Level(), Level(), NEARER)
        self._most = most
        self._gain = 0.0  # decibels, at the end of the frame before

    def follow(self, samples: Tensor) -> Tensor:
        """Map the frame [n] that says the first that was heard and not yet followed to that frame, as loud."""
        wanted = self.wanted(samples)
        room = -20.0 * math.log10(max(1e-6, float(samples.abs().max())))  # what is louder would be clipped
        gain = min(max(wanted, -self._most), self._most, max(0.0, room))
        before, self._gain = self._gain, gain
        if before == gain == 0.0:
            return samples
        ramp = torch.linspace(before, gain, len(samples) + 1)[1:]
        return (samples * 10.0 ** (ramp / 20.0)).clamp(-1.0, 1.0)
