"""What a codec's decoder says of features, at the pitch of the recording that it should sound like.

Pulses that come at other moments than the recording's would make spectra differ that sound alike, so while it learns a
head with a source of pulses speaks at the pitch that is measured, and has to tell that pitch besides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.streamvoiceanon.codec import Codec, Pitch
from models.streamvoiceanon.contour import WINDOW, measure
from models.streamvoiceanon.harmonic import HarmonicGenerator


def speak_like(codec: Codec, x: Tensor, pitch: Pitch | None, samples: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Map features [B, n, width] and the pitch that codes say (`GroupedQuantizer.octaves`) to samples [B, n frames].

    `samples`, of that shape, are the recording's. Besides, for a head with a source of pulses, the scalars "pitch", how
    many octaves it is off where there is one, and "voicing", the cross-entropy of whether there is one.
    """
    head, state = codec.head, codec.initial_decoder_state(len(x))
    if not isinstance(head, HarmonicGenerator) or pitch is None:
        made, _ = codec.synthesise(x, pitch, state)
        return made, {}
    up, (network, last, source) = state
    x, _ = codec.quantizer.upsample(x, up)
    x, _ = head.pieces(x, network)
    octaves, likely, _ = head.tell(x, *pitch, last)
    with torch.no_grad():
        wanted, voiced = measure(around_ends(samples, head.config.hop, x.shape[1]))
    made, _ = head.speak(x, torch.where(voiced, wanted, octaves.detach()), voiced, source)
    off = (octaves - wanted).abs() * voiced
    told = {
        "pitch": off.sum() / voiced.sum().clamp(min=1),
        "voicing": F.binary_cross_entropy_with_logits(likely, voiced.float()),
    }
    return made, told


def around_ends(samples: Tensor, hop: int, pieces: int) -> Tensor:
    """Cut samples [B, n] to [B, pieces, WINDOW]: what surrounds the end of each piece of `hop` samples."""
    return F.pad(samples, (WINDOW // 2 - hop, WINDOW)).unfold(1, WINDOW, hop)[:, :pieces]


def freeze_codes(codec: Codec) -> None:
    """Let nothing of a codec learn that decides which codes speech gets; the rest is as it was."""
    codec.backbone.requires_grad_(False)
    codec.quantizer.downsample.requires_grad_(False)
    for quantizer in codec.quantizer.residual_fsq.rvqs:
        quantizer.project_in.requires_grad_(False)
