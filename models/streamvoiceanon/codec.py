"""The codec: speech to eight acoustic codes a frame, and back to samples (fish-speech 1.5's Firefly).

A small codec may speak through `spectral.SpectralGenerator` or `harmonic.HarmonicGenerator` instead of the HiFi-GAN
head; with the latter its first codebook is the pitch.

Weight normalization is folded into plain weights at load (`checkpoint.fold_weight_norm`); the networks here hold those.
"""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon import fused, kernels
from models.streamvoiceanon.contour import LONGEST, SAMPLE_RATE
from models.streamvoiceanon.conv import CausalConv1d, CausalConvTranspose1d, ConvNeXtEncoder, Resample
from models.streamvoiceanon.frontend import PUBLISHED, FrameConfig, LogMel
from models.streamvoiceanon.fsq import FiniteScalarQuantizer
from models.streamvoiceanon.harmonic import HarmonicGenerator, PitchBook
from models.streamvoiceanon.spectral import SpectralConfig, SpectralGenerator
from models.streamvoiceanon.state import State

Pitch = tuple[Tensor, Tensor]  # of frames, each [B, n]: octaves above 1 Hz, and whether there is one


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the published network. The product of `rates` is the mel hop, 512 samples.

    `bounds` says how often the quantizer bounds its input (see `fsq`). With `spectral` the head is a spectral one, or
    one of pulses, whose pitch is then the first codebook; `rates`, `kernels`, `dilations` and `edge_kernel` then say
    nothing.
    """

    bands: int = 160
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (128, 256, 384, 512)
    codebooks: int = 8
    levels: tuple[int, ...] = (8, 5, 5, 5)
    bounds: int = 2
    rates: tuple[int, ...] = (8, 8, 2, 2, 2)
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    edge_kernel: int = 13
    spectral: SpectralConfig | None = None


class ResidualBlock(nn.Module):
    """For every dilation two convolutions, both dilated, added to their input."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(CausalConv1d(channels, channels, kernel, dilation=d) for d in dilations)
        self.convs2 = nn.ModuleList(CausalConv1d(channels, channels, kernel, dilation=d) for d in dilations)

    def initial_state(self, batch: int) -> State:
        return tuple(
            (first.initial_state(batch), second.initial_state(batch))  # type: ignore[operator]
            for first, second in zip(self.convs1, self.convs2, strict=True)
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        after = []
        for first, second, (past1, past2) in zip(self.convs1, self.convs2, state, strict=True):
            y, past1 = first(F.silu(x), past1)
            y, past2 = second(F.silu(y), past2)
            x = x + y
            after.append((past1, past2))
        return x, tuple(after)


class ParallelBlock(nn.Module):
    """The mean of residual blocks of several kernel sizes."""

    packed: fused.PackedResidualBlocks | None = None

    def __init__(self, channels: int, kernels: tuple[int, ...], dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel, dilations) for kernel in kernels)

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the weights for inference on a CPU, in float32 or, with another `kind`, in what tiles take."""
        convolutions = [
            [causal.conv for pair in zip(block.convs1, block.convs2, strict=True) for causal in pair]  # type: ignore[arg-type]
            for block in self.blocks
        ]
        self.packed = fused.PackedResidualBlocks(
            [
                [(kernels.pack_residual(c.weight.transpose(1, 2), kind), c.bias, c.dilation[0]) for c in branch]
                for branch in convolutions
            ]
        )
        for conv in itertools.chain(*convolutions):
            conv.weight = None

    def initial_state(self, batch: int) -> State:
        return tuple(block.initial_state(batch) for block in self.blocks)  # type: ignore[operator]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.packed is not None:
            y, after = self.packed(x, [past for block in state for pair in block for past in pair])
            pairs = iter(zip(after[::2], after[1::2], strict=True))
            return y, tuple(tuple(next(pairs) for _ in block) for block in state)
        results = [block(x, past) for block, past in zip(self.blocks, state, strict=True)]
        return torch.stack([y for y, _ in results]).mean(0), tuple(past for _, past in results)


class HiFiGenerator(nn.Module):
    """Features [B, n mel frames, width] to samples [B, n x 512] in [-1, 1]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        channels = [width // 2**i for i in range(len(config.rates) + 1)]
        self.conv_pre = CausalConv1d(width, width, config.edge_kernel)
        self.ups = nn.ModuleList(
            CausalConvTranspose1d(wide, narrow, 2 * rate, rate)
            for wide, narrow, rate in zip(channels[:-1], channels[1:], config.rates, strict=True)
        )
        self.resblocks = nn.ModuleList(
            ParallelBlock(narrow, config.kernels, config.dilations) for narrow in channels[1:]
        )
        self.conv_post = CausalConv1d(channels[-1], 1, config.edge_kernel)

    def initial_state(self, batch: int) -> State:
        return (
            self.conv_pre.initial_state(batch),
            tuple(up.initial_state(batch) for up in self.ups),  # type: ignore[operator]
            tuple(block.initial_state(batch) for block in self.resblocks),  # type: ignore[operator]
            self.conv_post.initial_state(batch),
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        pre, ups, blocks, post = state
        x, pre = self.conv_pre(x, pre)
        ups_after, blocks_after = [], []
        for up, block, up_past, block_past in zip(self.ups, self.resblocks, ups, blocks, strict=True):
            x, up_past = up(F.silu(x), up_past)
            x, block_past = block(x, block_past)
            ups_after.append(up_past)
            blocks_after.append(block_past)
        x, post = self.conv_post(F.silu(x), post)
        return torch.tanh(x).squeeze(2), (pre, tuple(ups_after), tuple(blocks_after), post)


class GroupedQuantizer(nn.Module):
    """One quantizer for every group of channels; with `pitch` the first group's is the pitch, as it is measured."""

    def __init__(self, width: int, groups: int, levels: tuple[int, ...], bounds: int, pitch: bool = False) -> None:
        super().__init__()
        narrow = width // groups
        self.pitch = PitchBook(narrow, math.prod(levels)) if pitch else None
        learned = range(groups - 1 if pitch else groups)
        self.rvqs = nn.ModuleList(FiniteScalarQuantizer(narrow, levels, bounds) for _ in learned)

    def hear(self, frames: Tensor) -> Tensor:
        """Map frames [B, n, samples] to the codes that are not of features, [B, 1 or 0, n]."""
        if self.pitch is None:
            return torch.empty(len(frames), 0, frames.shape[1], dtype=torch.int64, device=frames.device)
        return self.pitch.hear(frames).unsqueeze(1)

    def encode(self, x: Tensor) -> Tensor:
        """Map [B, n, width] to the codes of features, [B, groups or one less, n], int64."""
        return torch.stack([q.encode(part) for q, part in zip(self.rvqs, self._parts(x), strict=True)], dim=1)  # type: ignore[operator]

    def round_trip(self, x: Tensor, heard: Tensor) -> tuple[Tensor, Pitch | None]:
        """What `decode` makes of what is `heard` and of `encode`, [B, n, width], differentiable, and the `octaves`."""
        parts = [q.round_trip(part) for q, part in zip(self.rvqs, self._parts(x), strict=True)]  # type: ignore[operator]
        if self.pitch is None:
            return torch.cat(parts, -1), None
        values = self.pitch.values(heard[:, 0])
        return torch.cat([self.pitch.decode(values), *parts], -1), self.pitch.octaves(values)

    def values(self, codes: Tensor) -> Tensor:
        """Map codes [B, groups, n] to numbers that stand for them and can be averaged, [B, groups, n, channels].

        A group with fewer channels than another has zeros in the rest.
        """
        values = [book.values(code) for book, code in zip(self._books(), codes.unbind(1), strict=True)]
        most = max(value.shape[-1] for value in values)
        return torch.stack([F.pad(value, (0, most - value.shape[-1])) for value in values], dim=1)

    def decode(self, values: Tensor) -> Tensor:
        """Map `values` [B, groups, n, channels], or means of them, to [B, n, width]."""
        parts = zip(self._books(), values.unbind(1), strict=True)
        return torch.cat([book.decode(value[..., : book.channels]) for book, value in parts], -1)

    def octaves(self, values: Tensor) -> Pitch | None:
        """Map `values` [B, groups, n, channels] to the pitch of frames; None where no code is a pitch."""
        return None if self.pitch is None else self.pitch.octaves(values[:, 0, :, : self.pitch.channels])

    def _books(self) -> list[FiniteScalarQuantizer | PitchBook]:
        return [*([] if self.pitch is None else [self.pitch]), *self.rvqs]

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """The channels of each learned quantizer; what the pitch has in their place is not of the features."""
        return x.chunk(len(self.rvqs) + (self.pitch is not None), dim=-1)[self.pitch is not None :]


class _Quantizer(nn.Module):
    def __init__(self, config: CodecConfig, frames: FrameConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.residual_fsq = GroupedQuantizer(
            width,
            config.codebooks,
            config.levels,
            config.bounds,
            config.spectral is not None and config.spectral.pulses,
        )
        self.downsample = Resample(width, up=False, times=frames.halvings)
        self.upsample = Resample(width, up=True, times=frames.halvings)


class Codec(nn.Module):
    """Samples to acoustic codes [B, codebooks, frames] and back, both streamed."""

    def __init__(self, config: CodecConfig | None = None, frames: FrameConfig = PUBLISHED) -> None:
        super().__init__()
        self.config = config or CodecConfig()
        self.mel = LogMel(self.config.bands, frames)
        self.backbone = ConvNeXtEncoder(self.config.bands, self.config.depths, self.config.widths)
        self.quantizer = _Quantizer(self.config, frames)
        spectral = self.config.spectral
        self.head: HiFiGenerator | SpectralGenerator | HarmonicGenerator
        if spectral is None:
            self.head = HiFiGenerator(self.config)
        elif spectral.pulses:
            if frames.sample_rate != SAMPLE_RATE or frames.samples <= 2 * LONGEST:
                raise ValueError(f"a source of pulses needs 16 kHz and frames of more than {2 * LONGEST} samples")
            self.head = HarmonicGenerator(self.config.widths[-1], frames.hop, spectral)
        else:
            self.head = SpectralGenerator(self.config.widths[-1], frames.hop, spectral)
        self._frame_samples = frames.samples

    def initial_encoder_state(self, batch: int) -> State:
        return (
            self.mel.initial_state(batch),
            self.backbone.initial_state(batch),
            self.quantizer.downsample.initial_state(batch),
        )

    def encode(self, samples: Tensor, state: State) -> tuple[Tensor, State]:
        """Map samples [B, n frames] to codes [B, codebooks, n], and the state on."""
        x, state = self.features(samples, state)
        return torch.cat([self.heard(samples), self.quantizer.residual_fsq.encode(x)], dim=1), state

    def heard(self, samples: Tensor) -> Tensor:
        """Map samples [B, n frames] to the codes that are not of features, [B, 1 or 0, n]."""
        return self.quantizer.residual_fsq.hear(samples.unflatten(1, (-1, self._frame_samples)))

    def features(self, samples: Tensor, state: State) -> tuple[Tensor, State]:
        """Map samples [B, n frames] to what is quantized, [B, n, width], and the state on."""
        mel_state, backbone_state, down_state = state
        x, mel_state = self.mel(samples, mel_state)
        x, backbone_state = self.backbone(x, backbone_state)
        x, down_state = self.quantizer.downsample(x, down_state)
        return x, (mel_state, backbone_state, down_state)

    def initial_decoder_state(self, batch: int) -> State:
        return self.quantizer.upsample.initial_state(batch), self.head.initial_state(batch)

    def values(self) -> Tensor:
        """What stands for every code of every codebook, [codebooks, codes, channels]: numbers that can be averaged."""
        every = torch.arange(math.prod(self.config.levels), device=self.mel.window.device)
        return self.quantizer.residual_fsq.values(every.expand(1, self.config.codebooks, -1))[0]

    def decode(self, written: Tensor, state: State) -> tuple[Tensor, State]:
        """Map codes [B, codebooks, n] to samples [B, n frames] in [-1, 1], and the state on.

        What is written is codes where it is integers, else means of `values`, [B, codebooks, n, channels].
        """
        books = self.quantizer.residual_fsq
        values = written if written.is_floating_point() else books.values(written)
        samples, state = self.synthesise(books.decode(values), books.octaves(values), state)
        return samples.clamp(-1.0, 1.0), state

    def synthesise(self, x: Tensor, pitch: Pitch | None, state: State) -> tuple[Tensor, State]:
        """Map features [B, n, width] and the pitch of the frames (`GroupedQuantizer.octaves`) to samples [B, n frames],
        and the state on."""
        up_state, head_state = state
        x, up_state = self.quantizer.upsample(x, up_state)
        if isinstance(self.head, HarmonicGenerator):
            assert pitch is not None
            x, head_state = self.head(x, *pitch, head_state)
        else:
            x, head_state = self.head(x, head_state)
        return x, (up_state, head_state)
