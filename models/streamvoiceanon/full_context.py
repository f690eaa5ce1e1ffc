"""Content of whole utterances, by a recogniser that hears what follows.

A live call is heard as it comes, and what is not certain yet when it has to be spoken is lost. A recording lies there
whole: Whisper's own encoder hears it, which attends to both sides and knows far more people than any content encoder
does that was trained here, and a small network tells from its frames where in the content encoder's codebook each frame
lies. Codes mean what they meant, so that the language model and all that follows are those of a live call.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.whisper import FRAME, SAMPLE_RATE, Whisper

TURN = 2  # of Whisper's frames, for one of content
FRAME_SAMPLES = TURN * FRAME
DROPOUT = 0.1
MOST = 4_096  # of any size: what a folder says is not believed


@dataclass(frozen=True)
class FullContextConfig:
    """Sizes: `frame_width` is that of Whisper's frames (tiny's), `kernel` how many content frames a layer sees."""

    frame_width: int = 384
    width: int = 160
    hidden: int = 256
    layers: int = 3
    kernel: int = 7


class _Layer(nn.Module):
    """A depthwise convolution over both sides and a feed-forward, added to their input (after ConvNeXt)."""

    def __init__(self, config: FullContextConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel
        self.around = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.w1, self.w2 = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.around(x.transpose(1, 2)).transpose(1, 2))
        return x + self.dropout(self.w2(F.gelu(self.w1(y))))


class FullContext(nn.Module):
    """Whisper's frames, fifty a second, to points of the codebook, twenty-five a second."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FullContextConfig, code_width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.frame_width))
        self.register_buffer("deviation", torch.ones(config.frame_width))
        self.project_in = nn.Linear(TURN * config.frame_width, config.width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.project_out = nn.Linear(config.width, code_width)

    def forward(self, frames: Tensor) -> Tensor:
        """Map Whisper's frames [B, 2n, frame width] to points [B, n, code width]."""
        x = (frames - self.mean) / self.deviation
        x = self.project_in(x.unflatten(1, (-1, TURN)).flatten(2))
        for layer in self.layers:
            x = layer(x)
        return self.project_out(self.norm(x))


def listen(whisper: Whisper, wave: Tensor) -> Tensor:
    """Map a wave of n whole frames, [640 n] at 16 kHz, to the frames that Whisper makes of it, float32 [2n, width].

    One wave at a time: what else is heard changes nothing.
    """
    (heard,) = whisper.encode([wave.numpy()])
    windows = zip(heard.windows, heard.frames, strict=True)
    return torch.cat([torch.from_numpy(window[:count]).float() for window, count in windows])


def check_sizes(config: FullContextConfig) -> None:
    """Raise ValueError, one line, where a size is none."""
    for field in fields(config):
        size = getattr(config, field.name)
        if type(size) is not int or not 0 < size <= MOST:
            raise ValueError(f"full_context.{field.name} is a whole number from 1 to {MOST}, not {size!r}")
    if config.kernel % 2 == 0:
        raise ValueError(f"full_context.kernel is odd, not {config.kernel}")
    if config.frame_width != FullContextConfig.frame_width:
        raise ValueError(f"full_context.frame_width is {FullContextConfig.frame_width}, the embedded recogniser's")


def check_frames(sample_rate: int, samples: int) -> None:
    """Raise ValueError unless a frame of so many `samples` is two of Whisper's."""
    if (sample_rate, samples) != (SAMPLE_RATE, FRAME_SAMPLES):
        raise ValueError(f"full context needs {SAMPLE_RATE // 1000} kHz and frames of {FRAME_SAMPLES} samples")
