"""Losses that hear: how far what networks make sounds from what they should make.

Spectra weigh a hiss as they weigh a vowel, and cross-entropy weighs a code that sounds like the right one as it weighs
any other. Features of a network that understands speech are far apart where something else would be understood
(perceptual losses: Johnson et al., 2016, arXiv 1603.08155). Here that network is the trunk of the model's own content
encoder, as it is.

A language model that has what its codes mean on average spoken (`AcousticLMConfig.averaged`) learns from how that
sounds. One that chooses codes cannot, as choices have no gradient: the sound of what it would write is computed with
the codes that it chose, and learnt from as if their probabilities had been heard (straight-through: Bengio et al.,
2013, arXiv 1308.3432).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.training.speaking import speak_like
from models.streamvoiceanon.training.spectra import SpectralDistance, SpectrumConfig

FLOOR = 1e-3  # of a channel's deviation
STFT_WEIGHT, MEL_WEIGHT = 0.5, 1.0  # of spectra, beside what is understood
SETTLING = 3  # frames of a stretch that are not compared with a recording


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
    """Says aloud what a language model writes, and tells how far apart by ear that is from what it should sound like.

    That is what the codec makes of the codes that it should write; or, where it is given, the recording that these
    codes are of, from which the codec's decoder can learn as well (`freeze_codes`): one that has read nothing but true
    codes is not used to a language model's.

    Where a codec's first code is the pitch, what is compared with codes is heard at the pitch that should be written,
    and cross-entropy alone says whether it is. What is compared with a recording is heard at the pitch that is measured
    there, and how far the written one is off is learnt from as well.
    """

    def __init__(self, codec: Codec, listener: Listener, frames: FrameConfig) -> None:
        super().__init__()
        self.codec, self._listener = codec.eval().requires_grad_(False), listener
        self._spectra = SpectralDistance(frames.sample_rate, SpectrumConfig())
        self._frame_samples = frames.samples

    def forward(
        self, lm: AcousticLM, hidden: Tensor, wanted: Tensor, recorded: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Map hidden states [B, n, width], the codes wanted there, [B, n, codebooks], and what was recorded there,
        [B, n frames], to scalars.

        "listening" is the distance of what the listener hears, "spectra" that of spectra, of each as much as its weight
        above; with what was recorded there are the decoder's "pitch" and "voicing" (`speak_like`) as well.
        """
        count, frames, _ = hidden.shape
        flat, books = hidden.flatten(0, 1), self.codec.quantizer.residual_fsq
        with torch.no_grad():
            written = lm.write_frame(flat, lambda logits: logits.argmax(-1), lm.fast_state(len(flat)))
            values = books.values(wanted.transpose(1, 2))  # [B, codebooks, n, channels]
        chosen = lm.frame_logits(flat, written).float().softmax(-1)
        if not lm.config.averaged:
            chosen = F.one_hot(written, chosen.shape[-1]) + chosen - chosen.detach()
        with torch.autocast(hidden.device.type, enabled=False):  # as they are spoken
            means = torch.einsum("fbc,bcv->fbv", chosen, self.codec.values())
        means = means.unflatten(0, (count, frames)).transpose(1, 2)
        if recorded is None:
            with torch.no_grad():
                target = self._say(values, values)
            return self._compare(self._say(means, values), target)
        made, told = speak_like(self.codec, books.decode(means), books.octaves(means), recorded)
        begun = min(SETTLING, frames - 1) * self._frame_samples  # the decoder knows nothing of what was before
        return self._compare(made.float().clamp(-1.0, 1.0)[:, begun:], recorded[:, begun:]) | told

    def _compare(self, made: Tensor, target: Tensor) -> dict[str, Tensor]:
        spectra = self._spectra(made, target)
        return {
            "listening": self._listener.distance(made, target),
            "spectra": STFT_WEIGHT * spectra["stft"] + MEL_WEIGHT * spectra["mel"],
        }

    def _say(self, values: Tensor, wanted: Tensor) -> Tensor:
        """Map what codes mean, [B, codebooks, n, channels], to samples [B, n frames], at the pitch that is wanted."""
        codec, books = self.codec, self.codec.quantizer.residual_fsq
        if books.pitch is not None:
            values = torch.cat([wanted[:, :1], values[:, 1:]], dim=1)
        state = codec.initial_decoder_state(len(values))
        samples, _ = codec.synthesise(books.decode(values), books.octaves(values), state)
        return samples.float().clamp(-1.0, 1.0)
