"""What a content encoder hears while it learns beside the language model that reads it.

Where content is several codes and their shares, it has gradients: what follows the encoder's trunk learns from what the
language model makes of it, of people who say what synthetic voices say. Trunk and codebook stay. Whom it hears cannot
help it, as somebody else has to speak.
"""

import torch
from torch import Tensor

from models.streamvoiceanon.content_encoder import ContentEncoder, only, with_pitch
from models.streamvoiceanon.training.matching import quantizer_of
from models.streamvoiceanon.whisper_trunk import RING


def free_hearing(encoder: ContentEncoder) -> None:
    """Let what follows the trunk learn, but for the codebook. Raises ValueError where its content has no gradients."""
    if encoder.config.nearest == 1:
        raise ValueError("an encoder that hears one code at once has no gradients to learn from")
    encoder.requires_grad_(False)
    encoder.quantizer.requires_grad_(True)
    quantizer_of(encoder).codebook.requires_grad_(False)


def hear(encoder: ContentEncoder, samples: Tensor, generator: torch.Generator | None) -> Tensor:
    """Map samples [B, n frames] to content without pitch, [B, n, nearest, 2], with gradients for what may learn.

    `generator` draws where on its trunk's ring each of them begins; without one it is where a stream begins.
    """
    count, frames = len(samples), samples.shape[1] // encoder.frame_samples
    places = None
    if generator is not None:
        places = torch.randint(RING, (count,), generator=generator)
    mel, backbone, down, transformer, _ = encoder.initial_state(count, frames, places)
    with torch.no_grad():
        x, _ = encoder.mel(samples, mel)
        x, _ = encoder.backbone(x, backbone)
    x, _ = encoder.quantizer.downsample(x, down)
    x, _ = encoder.quantizer.pre_module(x, transformer)
    with torch.autocast(samples.device.type, enabled=False):  # distances of a hundred lose too much in half precision
        return encoder.codes(x.float())


def told(content: Tensor, heard: Tensor, source: Tensor, pitch_codes: int) -> Tensor:
    """Return content [B, L, nearest, 2]: the codes `content` [B, L], but what was `heard` in the places of `source`.

    `heard` is [B, T, nearest, 2] without pitch, the first frames of each that of its source, in order; its pitch is
    that of the codes.
    """
    pitches = max(1, pitch_codes)
    frames = torch.arange(heard.shape[1], device=heard.device)
    within = frames < source.sum(1, keepdim=True)
    return only(content, heard.shape[2]).index_put(
        (source,), with_pitch(heard[within], content[source] % pitches, pitches)
    )
