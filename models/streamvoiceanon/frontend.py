"""The log-mel front end that the content encoder and the codec share, strictly causal and streamed.

In the published networks a codec frame (2,048 samples) gives four mel frames (hop 512); a mel frame sees its own hop
and the 1,536 samples before it, and nothing later. `FrameConfig` holds these numbers for networks of any shape.
"""

from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

from models.streamvoiceanon import kernels


@dataclass(frozen=True)
class FrameConfig:
    """How time is cut up; the defaults are the published ones. `window` and `hop` are in samples.

    A codec frame is as many mel frames as `halvings` of the rate leave one of.
    """

    sample_rate: int = 44_100
    window: int = 2_048
    hop: int = 512
    halvings: int = 2

    @property
    def mels_per_frame(self) -> int:
        """Mel frames of one codec frame."""
        return 2**self.halvings

    @property
    def samples(self) -> int:
        """Samples of one codec frame."""
        return self.hop * self.mels_per_frame

    @property
    def seconds(self) -> float:
        """Length of one codec frame: 46.44 ms as published."""
        return self.samples / self.sample_rate


PUBLISHED = FrameConfig()
SAMPLE_RATE, FRAME_SAMPLES = PUBLISHED.sample_rate, PUBLISHED.samples


class LogMel(nn.Module):
    """Samples to log-mel frames: periodic Hann window, slaney scale and norm, log of the magnitude."""

    window: Tensor
    filters: Tensor
    packed_filters: kernels.PackedWeights | None = None

    def __init__(self, bands: int = 160, frames: FrameConfig = PUBLISHED) -> None:
        super().__init__()
        self.frames = frames
        with torch.device("cpu"):  # also where the network around it is built without memory, to be loaded into
            filters = torchaudio.functional.melscale_fbanks(
                n_freqs=frames.window // 2 + 1,
                f_min=0.0,
                f_max=frames.sample_rate / 2,
                n_mels=bands,
                sample_rate=frames.sample_rate,
                norm="slaney",
                mel_scale="slaney",
            )
            window = torch.hann_window(frames.window)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the filters for inference on a CPU, in float32 whatever `kind`."""
        self.packed_filters = kernels.pack_weights(self.filters.unsqueeze(1), "float32")

    def initial_state(self, batch: int) -> Tensor:
        """The samples before the first one: silence [batch, window - hop]."""
        return self.window.new_zeros(batch, self.frames.window - self.frames.hop)

    def forward(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map samples [B, n x hop] to log-mel frames [B, n, bands], and the state on."""
        samples = torch.cat([state, samples], dim=1)
        frames = samples.unfold(1, self.frames.window, self.frames.hop) * self.window  # (B, n, window)
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        magnitude = torch.sqrt(spectrum.square().sum(-1) + 1e-6)
        mel = (
            magnitude @ self.filters.T
            if self.packed_filters is None
            else kernels.convolve(magnitude, self.packed_filters, None)
        )
        return torch.log(torch.clamp(mel, min=1e-5)), samples[:, samples.shape[1] - state.shape[1] :]
