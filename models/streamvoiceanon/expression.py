"""How something is said, beside what is said: what of a stream's expression is followed, in one place."""

from torch import Tensor

from models.streamvoiceanon.brightness import Brightness
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.loudness import Loudness


class Expression:
    """Loudness and brightness of one stream: `hear` its frames, and let what is spoken `follow` them, a frame each."""

    def __init__(self, loudness: float, brightness: float, frames: FrameConfig) -> None:
        """Each is followed by so many decibels at most; 0: it is not."""
        # Loudness comes last: what is made brighter is louder.
        self._followed: list[Brightness | Loudness] = [Brightness(brightness, frames)] if brightness else []
        self._followed += [Loudness(loudness)] if loudness else []

    def hear(self, samples: Tensor) -> None:
        """Take the next frame that was heard, [samples of a frame]."""
        for each in self._followed:
            each.hear(samples)

    def follow(self, samples: Tensor) -> Tensor:
        """Map the frame [n] that says the first that was heard and not yet followed to that frame, expressed alike."""
        for each in self._followed:
            samples = each.follow(samples)
        return samples
