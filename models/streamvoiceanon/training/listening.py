"""Losses that hear: how far what networks make sounds from what they should make.

Spectra weigh a hiss as they weigh a vowel, and cross-entropy weighs a code that sounds like the right one as it weighs
any other. Features of a network that understands speech are far apart where something else would be understood
(perceptual losses: Johnson et al., 2016, arXiv 1603.08155). Here that network is the trunk of the model's own content
encoder, as it is.

A language model chooses codes, and choices have no gradient: the sound of what it would write is computed with the
codes that it chose, and learnt from as if their probabilities had been heard (straight-through: Bengio et al., 2013,
arXiv 1308.3432).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.training.spectra import SpectralDistance, SpectrumConfig

FLOOR = 1e-3  # of a channel's deviation
STFT_WEIGHT, MEL_WEIGHT = 0.25, 0.5  # of spectra, beside what is understood


class Listener(nn.Module):
    """What the trunk of a content encoder hears in waves; it has nothing to learn, and whoever made the waves has."""

    def __init__(self, encoder: ContentEncoder, frames: FrameConfig) -> None:
        super().__init__()
        self._encoder = encoder.eval().requires_grad_(False)
        self._frame_samples = frames.samples

    def forward(self, samples: Tensor) -> Tensor:
        """Map samples [B, n frames] to features [B, steps, width]."""
        encoder, frames = self._encoder, samples.shape[1] // self._frame_samples
        places = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
        mel, backbone, *_ = encoder.initial_state(len(samples), frames, places)
        x, _ = encoder.mel(samples, mel)
        x, _ = encoder.backbone(x, backbone)
        return x

    def distance(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared difference of the features of two waves [B, n frames], each by its deviation in `wanted`."""
        with torch.no_grad():
            target = self(wanted)
            deviation = target.flatten(0, 1).std(0) + FLOOR
        return ((self(made) - target) / deviation).float().square().mean()


class Loudspeaker(nn.Module):
    """Says codes aloud, and how far apart by ear those are that a language model writes and those that it should write.

    Where a codec's first code is the pitch, the pitch that should be written is what both are heard at: whether it is
    right, cross-entropy says.
    """

    def __init__(self, codec: Codec, listener: Listener, frames: FrameConfig) -> None:
        super().__init__()
        self._codec, self._listener = codec.eval().requires_grad_(False), listener
        self._spectra = SpectralDistance(frames.sample_rate, SpectrumConfig())

    def forward(self, lm: AcousticLM, hidden: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Map hidden states [B, n, width] and the codes wanted there, [B, n, codebooks], to scalars.

        "listening" is the distance of what the listener hears, "spectra" that of spectra.
        """
        count, frames, _ = hidden.shape
        flat = hidden.flatten(0, 1)
        with torch.no_grad():
            written = lm.write_frame(flat, lambda logits: logits.argmax(-1), lm.fast_state(len(flat)))
            target = self._say(self._features(wanted), wanted)
        likely = lm.frame_logits(flat, written).float().softmax(-1)
        chosen = F.one_hot(written, likely.shape[-1]) + likely - likely.detach()
        made = self._say(self._features(wanted, chosen.unflatten(0, (count, frames))), wanted)
        spectra = self._spectra(made, target)
        return {
            "listening": self._listener.distance(made, target),
            "spectra": STFT_WEIGHT * spectra["stft"] + MEL_WEIGHT * spectra["mel"],
        }

    def _features(self, codes: Tensor, chosen: Tensor | None = None) -> Tensor:
        """What the decoder reads, [B, n, width], of codes [B, n, codebooks]; of those `chosen` [B, n, codebooks,
        codes] where they are given, all but the pitch."""
        books = self._codec.quantizer.residual_fsq
        if chosen is None:
            return books.decode(codes.transpose(1, 2))
        every = torch.arange(chosen.shape[-1], device=chosen.device)
        learned = len(books.rvqs)
        parts = [] if books.pitch is None else [books.pitch.decode(codes[..., 0])]
        parts += [
            share @ book.decode(every)  # type: ignore[operator]
            for share, book in zip(chosen[..., -learned:, :].unbind(2), books.rvqs, strict=True)
        ]
        return torch.cat(parts, -1)

    def _say(self, features: Tensor, codes: Tensor) -> Tensor:
        """Map what the decoder reads, and the codes whose pitch is heard, to samples [B, n frames]."""
        codec = self._codec
        samples, _ = codec.synthesise(features, codes.transpose(1, 2), codec.initial_decoder_state(len(features)))
        return samples.float().clamp(-1.0, 1.0)
