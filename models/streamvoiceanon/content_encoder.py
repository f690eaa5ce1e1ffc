"""The content encoder: speech to one content code a frame, what is said without who says it.

An encoder with a codebook can hear several codes at once: what lies between two of them is more of one than of the
other, and a language model that reads the mean of what they say mishears less than one that reads the nearest (soft
units: van Niekerk et al., 2022, arXiv 2111.02392). Content is then, of each frame, its codes and their shares.

The parts that only training used (a decoder head and a second transformer, over half of the checkpoint) are never
built.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon.contour import PitchContour
from models.streamvoiceanon.conv import ConvNeXtEncoder, Resample
from models.streamvoiceanon.frontend import PUBLISHED, FrameConfig, LogMel
from models.streamvoiceanon.linear import Linear, Table
from models.streamvoiceanon.state import State
from models.streamvoiceanon.transformer import WindowedTransformer
from models.streamvoiceanon.whisper_trunk import HOP, SAMPLE_RATE, WhisperConfig, WhisperMel, WhisperTrunk


@dataclass(frozen=True)
class ContentEncoderConfig:
    """Sizes of the published network.

    With `whisper` the features come from its causal encoder, and `bands`, `depths` and all but the last of `widths` say
    nothing. With `code_width` a code is the nearest of 2^`bits` vectors of so many numbers instead of that many signs.
    With `pitch_codes` a code of so many for the pitch contour is part of every content code. With `nearest` above 1 a
    frame's content is that many codes, the nearest ones, and their shares, which fall by e with every `spread` of
    squared distance.
    """

    bands: int = 160
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (128, 256, 384, 512)
    heads: int = 8
    hidden: int = 1536
    layers: int = 8
    window: int = 512
    bits: int = 13
    whisper: WhisperConfig | None = None
    code_width: int = 0
    pitch_codes: int = 0
    nearest: int = 1
    spread: float = 1.0


class BinarySphericalQuantizer(nn.Module):
    """A code whose bits are the signs of a projection, the first component the most significant bit.

    Normalizing the projection to unit length, as training does, moves no sign and is left out.
    """

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        self.project_in = Linear(width, bits)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n, width] to codes [B, n], int64."""
        bits = self.project_in(x) > 0
        place = 2 ** torch.arange(bits.shape[-1] - 1, -1, -1, device=x.device)
        return (bits * place).sum(-1)


class NearestQuantizer(nn.Module):
    """A code is the nearest of a codebook's vectors to a few numbers made of the features.

    At equal bits it tells more than signs do, because vectors lie where speech is (`training/codebook.py` finds them).
    """

    def __init__(self, width: int, code_width: int, bits: int) -> None:
        super().__init__()
        self.first, self.project_in = Linear(width, width), Linear(width, code_width)
        self.codebook = Table(2**bits, code_width)

    def project(self, x: Tensor) -> Tensor:
        """Map [..., width] to what is quantized, [..., code_width]."""
        return self.project_in(F.gelu(self.first(x)))

    def nearest(self, points: Tensor) -> Tensor:
        """Map points [..., code_width] to codes [...], int64."""
        return self._distances(points).argmin(-1)

    def shared(self, points: Tensor, count: int, spread: float) -> Tensor:
        """Map points [..., code_width] to their `count` nearest codes and the shares of these, [..., count, 2]."""
        distances, codes = self._distances(points).topk(count, largest=False)
        return with_shares(codes, (-distances / spread).softmax(-1))

    def _distances(self, points: Tensor) -> Tensor:
        """Squared distances of points from all codes, but for what is the same for all: [..., codes]."""
        entries = self.codebook.weight
        return entries.square().sum(1) - 2.0 * points @ entries.T

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n, width] to codes [B, n], int64."""
        return self.nearest(self.project(x))


class _ResidualQuantizer(nn.Module):
    """The checkpoint's nesting of its one quantizer."""

    def __init__(self, width: int, config: ContentEncoderConfig) -> None:
        super().__init__()
        quantizer = (
            NearestQuantizer(width, config.code_width, config.bits)
            if config.code_width
            else BinarySphericalQuantizer(width, config.bits)
        )
        self.rvqs = nn.ModuleList([quantizer])


class _Quantizer(nn.Module):
    def __init__(self, config: ContentEncoderConfig, frames: FrameConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.downsample = Resample(width, up=False, times=frames.halvings)
        self.pre_module = WindowedTransformer(width, config.heads, config.hidden, config.layers, config.window)
        self.residual_bsq = _ResidualQuantizer(width, config)


class ContentEncoder(nn.Module):
    """Samples to content codes, one or several `nearest` for every frame (2,048 samples at 44.1 kHz as published)."""

    def __init__(self, config: ContentEncoderConfig | None = None, frames: FrameConfig = PUBLISHED) -> None:
        super().__init__()
        self.config = config or ContentEncoderConfig()
        whisper = self.config.whisper
        if whisper is not None and (frames.sample_rate, frames.hop, self.config.widths[-1]) != (
            SAMPLE_RATE,
            2 * HOP,
            whisper.width,
        ):
            raise ValueError("Whisper's trunk needs 16 kHz, a hop of 320 samples and widths that end with its own")
        if self.config.pitch_codes and frames.sample_rate != SAMPLE_RATE:
            raise ValueError("a pitch contour needs 16 kHz")
        self.frame_samples = frames.samples
        self._steps = frames.mels_per_frame  # of the backbone, for one of codes
        self.mel = LogMel(self.config.bands, frames) if whisper is None else WhisperMel(whisper.bands)
        self.backbone = (
            ConvNeXtEncoder(self.config.bands, self.config.depths, self.config.widths)
            if whisper is None
            else WhisperTrunk(whisper)
        )
        self.quantizer = _Quantizer(self.config, frames)
        self.contour = PitchContour(self.config.pitch_codes, frames.samples) if self.config.pitch_codes else None

    def initial_state(
        self, batch: int, chunk: int, places: Tensor | None = None, usual_pitch: float | None = None
    ) -> State:
        """The state of fresh streams, for chunks of at most `chunk` frames; `places` as in `WhisperTrunk`, and
        `usual_pitch` as in `PitchContour`."""
        backbone = self.backbone
        return (
            self.mel.initial_state(batch),
            backbone.initial_state(batch, self._steps * chunk, places)
            if isinstance(backbone, WhisperTrunk)
            else backbone.initial_state(batch),
            self.quantizer.downsample.initial_state(batch),
            self.quantizer.pre_module.initial_state(batch, chunk),
            () if self.contour is None else self.contour.initial_state(batch, usual_pitch),
        )

    def forward(self, samples: Tensor, state: State, mels: Tensor | None = None) -> tuple[Tensor, State]:
        """Map samples [B, n frames] to codes [B, n], and the state on; `mels` as in `features`.

        With a contour a code is `pitch_codes` times what was said, and the pitch. With several `nearest` codes it is
        them and their shares, float32 [B, n, nearest, 2].
        """
        x, state = self.features(samples, state, mels)
        content = self.codes(x)
        if self.contour is not None:
            *others, before = state
            pitch, after = self.contour(samples, before)
            content, state = with_pitch(content, pitch, self.contour.codes), (*others, after)
        return content, state

    def codes(self, x: Tensor) -> Tensor:
        """Map what is quantized, [..., width], to content without its pitch."""
        quantizer = self.quantizer.residual_bsq.rvqs[0]
        return self.at(quantizer.project(x)) if isinstance(quantizer, NearestQuantizer) else quantizer(x)

    def at(self, points: Tensor) -> Tensor:
        """Map points of the codebook, [..., code width], to content without its pitch."""
        quantizer = self.quantizer.residual_bsq.rvqs[0]
        assert isinstance(quantizer, NearestQuantizer)
        if self.config.nearest > 1:
            return quantizer.shared(points, self.config.nearest, self.config.spread)
        return quantizer.nearest(points)

    def features(self, samples: Tensor, state: State, mels: Tensor | None = None) -> tuple[Tensor, State]:
        """Map samples [B, n frames] to what is quantized, [B, n, width], and the state on.

        `mels` [B]: how many mel frames of this chunk lie within the utterance; those after it are zeroed before and
        after the backbone, as the published network does. None: all. Whisper's trunk hears the silence there instead.
        """
        mel_state, backbone_state, down_state, transformer_state, contour_state = state
        x, mel_state = self.mel(samples, mel_state)
        if mels is None or self.config.whisper is not None:
            x, backbone_state = self.backbone(x, backbone_state)
        else:
            place = torch.arange(x.shape[1], device=x.device)
            within = (place < mels.to(x.device).unsqueeze(1)).unsqueeze(2)
            x, backbone_state = self.backbone(x * within, backbone_state)
            x = x * within
        x, down_state = self.quantizer.downsample(x, down_state)
        x, transformer_state = self.quantizer.pre_module(x, transformer_state)
        return x, (mel_state, backbone_state, down_state, transformer_state, contour_state)


def with_shares(codes: Tensor, shares: Tensor) -> Tensor:
    """Lay codes [..., n], the likeliest first, and their shares [..., n] out as content, float32 [..., n, 2]."""
    return torch.stack([codes.float(), shares.float()], dim=-1)


def only(codes: Tensor, count: int) -> Tensor:
    """Lay codes [...] out as content of `count` codes each, [..., count, 2], in which they alone have a share."""
    return with_shares(codes.unsqueeze(-1).expand(*codes.shape, count), F.one_hot(torch.zeros_like(codes), count))


def likeliest(content: Tensor) -> Tensor:
    """Map content, codes [...] or codes and their shares [..., n, 2], to its likeliest codes [...], int64."""
    return content[..., 0, 0].long() if content.is_floating_point() else content


def with_pitch(content: Tensor, pitch: Tensor, pitch_codes: int) -> Tensor:
    """Give content without pitch, [...] or [..., n, 2], the pitch [...] of so many codes."""
    if not content.is_floating_point():
        return content * pitch_codes + pitch
    codes = content[..., 0] * pitch_codes + pitch.unsqueeze(-1)
    return torch.stack([codes, content[..., 1]], dim=-1)


def without_pitch(content: Tensor, pitch_codes: int) -> Tensor:
    """Take the pitch, of so many codes, from content; what `with_pitch` undoes."""
    if not content.is_floating_point():
        return content // pitch_codes
    return torch.stack([content[..., 0].div(pitch_codes, rounding_mode="floor"), content[..., 1]], dim=-1)
