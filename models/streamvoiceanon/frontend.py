"""The log-mel front end that the content encoder and the codec share, strictly causal and streamed.

One codec frame (2,048 samples) gives four mel frames (hop 512); a mel frame sees its own hop and the 1,536 samples
before it, and nothing later.
"""

import torch
import torchaudio
from torch import Tensor, nn

SAMPLE_RATE = 44_100
FRAME_SAMPLES = 2_048  # one codec frame: 46.44 ms
HOP = 512
MELS_PER_FRAME = FRAME_SAMPLES // HOP
WINDOW = 2_048


class LogMel(nn.Module):
    """Samples at 44.1 kHz to log-mel frames: periodic Hann window, slaney scale and norm, log of the magnitude."""

    window: Tensor
    filters: Tensor

    def __init__(self, bands: int = 160) -> None:
        super().__init__()
        with torch.device("cpu"):  # also where the network around it is built without memory, to be loaded into
            filters = torchaudio.functional.melscale_fbanks(
                n_freqs=WINDOW // 2 + 1,
                f_min=0.0,
                f_max=SAMPLE_RATE / 2,
                n_mels=bands,
                sample_rate=SAMPLE_RATE,
                norm="slaney",
                mel_scale="slaney",
            )
            window = torch.hann_window(WINDOW)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def initial_state(self, batch: int) -> Tensor:
        """The samples before the first one: silence [batch, 1536]."""
        return self.window.new_zeros(batch, WINDOW - HOP)

    def forward(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map samples [B, n x 512] to log-mel frames [B, n, bands], and the state on."""
        samples = torch.cat([state, samples], dim=1)
        frames = samples.unfold(1, WINDOW, HOP) * self.window  # (B, n, window)
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        magnitude = torch.sqrt(spectrum.square().sum(-1) + 1e-6)
        mel = torch.log(torch.clamp(magnitude @ self.filters.T, min=1e-5))
        return mel, samples[:, samples.shape[1] - state.shape[1] :]
