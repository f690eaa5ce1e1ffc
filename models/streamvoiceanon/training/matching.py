"""Teaching a content encoder to hear people as it hears the synthetic voices that say the same.

A language model knows codes by the speech that it learnt to speak from, which is synthetic; of people's speech the same
encoder makes other codes, and words are lost there. Codebook and language model stay here, and what follows the
encoder's trunk is trained anew: a frame of a person's recording shall get the code that the encoder as it was gave to
the synthetic recording of the same words at that moment, or another that tells the same phoneme.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon.content_encoder import ContentEncoder, NearestQuantizer

UNKNOWN = -100  # a frame's code or phoneme: what losses leave out
BATCH, LONGEST = 16, 125  # utterances, frames of each
PEAK_RATE, LAST_SHARE, WARMUP, WEIGHT_DECAY = 1e-3, 0.03, 50, 0.02
CODE_WEIGHT = 0.3  # of the very code, beside the phoneme
NEIGHBOURS = 8  # how far a code's phonemes are its neighbours' as well
SEEN_ELSEWHERE = 0.02  # share of a code's phonemes that is everybody's


@dataclass(frozen=True)
class Told:
    """An utterance: what the trunk makes of it, heard in one way or several, each [2n, width]; the codes [n] that the
    encoder as it was gave to what is wanted; and the phonemes [n] by number, when they are said."""

    heard: tuple[Tensor, ...]
    codes: Tensor
    phones: Tensor


def quantizer_of(encoder: ContentEncoder) -> NearestQuantizer:
    """Return the encoder's quantizer. Raises ValueError where it has no codebook."""
    quantizer = encoder.quantizer.residual_bsq.rvqs[0]
    if not isinstance(quantizer, NearestQuantizer):
        raise ValueError("only codes of a codebook can be matched")
    return quantizer


@torch.no_grad()
def trunk(encoder: ContentEncoder, samples: Tensor, frame: int, place: int = 0) -> Tensor:
    """Map samples [n x `frame`] to what the encoder's trunk makes of them, half precision [2n, width].

    `place` is where on the trunk's ring of positions the utterance begins.
    """
    mel, backbone, *_ = encoder.initial_state(1, len(samples) // frame, torch.tensor([place]))
    x, _ = encoder.mel(samples.unsqueeze(0), mel)
    x, _ = encoder.backbone(x, backbone)
    return x[0].half()


def phones_of_codes(codebook: Tensor, codes: Tensor, phones: Tensor, count: int) -> Tensor:
    """Return how likely each of `count` phonemes is where a code stands, [codes of the codebook, count].

    Counted where both `codes` [N] and `phones` [N] are known, and shared with what is near in the codebook [K, D].
    """
    known = (codes >= 0) & (phones >= 0)
    counts = torch.zeros(len(codebook), count)
    counts.index_put_((codes[known], phones[known]), torch.ones(int(known.sum())), accumulate=True)
    squares = torch.cdist(codebook, codebook).square()
    near = squares.topk(NEIGHBOURS, largest=False).values.mean()
    shared = torch.exp(-squares / near) @ counts
    shared = shared + SEEN_ELSEWHERE * shared.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    return shared / shared.sum(1, keepdim=True).clamp(min=1e-9)


def points(encoder: ContentEncoder, heard: Tensor) -> Tensor:
    """Map what the trunk makes of utterances, [B, 2n, width], to what is quantized, [B, n, code width]."""
    _, _, down, transformer, _ = encoder.initial_state(len(heard), heard.shape[1] // 2)
    x, _ = encoder.quantizer.downsample(heard, down)
    x, _ = encoder.quantizer.pre_module(x, transformer)
    return quantizer_of(encoder).project(x)


def fit(
    encoder: ContentEncoder, corpus: Sequence[Told], knows: Tensor, lag: int, steps: int, seed: int
) -> Iterator[tuple[float, float]]:
    """Train what follows the trunk, all but the codebook; yield the losses of each step in nats: phonemes and codes.

    `knows` [codes, phones] says what codes tell, which is the phoneme of `lag` frames before. Raises ValueError where
    a loss is not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    codebook = quantizer_of(encoder).codebook.weight.detach()
    moved = [value for name, value in encoder.quantizer.named_parameters() if not name.endswith("codebook.weight")]
    squares = torch.cdist(codebook, codebook).square().topk(NEIGHBOURS, largest=False).values
    sharpness = nn.Parameter(-squares.mean().log() + math.log(2.0))
    for value in moved:
        value.requires_grad_(True)
    parameters = [*moved, sharpness]
    optimizer = torch.optim.AdamW(parameters, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        rate = PEAK_RATE * min(1.0, (step + 1) / WARMUP) * (LAST_SHARE + (1 - LAST_SHARE) * cosine)
        for group in optimizer.param_groups:
            group["lr"] = rate
        heard, codes, phones = draw(corpus, lag, generator)
        logits = log_likeness(points(encoder, heard).flatten(0, 1), codebook, sharpness.exp()).log_softmax(-1)
        of_codes = surprise(logits, codes.flatten())
        told = (logits.exp() @ knows).clamp(min=1e-6).log()
        of_phones = surprise(told, phones.flatten())
        optimizer.zero_grad()
        loss = of_phones + CODE_WEIGHT * of_codes
        if not loss.isfinite():
            raise ValueError(f"step {step}: a loss is not a number")
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield float(of_phones.detach()), float(of_codes.detach())
    for value in moved:
        value.requires_grad_(False)


def surprise(likely: Tensor, said: Tensor) -> Tensor:
    """Map log-probabilities [N, K] and numbers [N] to their cross-entropy where they are known; 0 where none is."""
    known = said != UNKNOWN
    return F.nll_loss(likely[known], said[known], reduction="sum") / known.sum().clamp(min=1)


def log_likeness(points: Tensor, codebook: Tensor, sharpness: Tensor) -> Tensor:
    """Map points [N, D] to logits of codes [N, K]: the nearest is the likeliest."""
    squares = points.square().sum(-1, keepdim=True) - 2.0 * points @ codebook.T + codebook.square().sum(1)
    return -sharpness * squares


def draw(corpus: Sequence[Told], lag: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return utterances that are drawn: what the trunk makes of them [B, 2n, width], codes and phonemes [B, n]."""
    heard, codes, phones = [], [], []
    for index in torch.randint(len(corpus), (BATCH,), generator=generator).tolist():
        told = corpus[index]
        way = int(torch.randint(len(told.heard), (), generator=generator))
        frames = min(LONGEST, len(told.heard[way]) // 2)
        heard.append(told.heard[way][: 2 * frames].float())
        codes.append(delayed(told.codes, 0, frames))
        phones.append(delayed(told.phones, lag, frames))
    pad = nn.utils.rnn.pad_sequence
    return pad(heard, True), pad(codes, True, UNKNOWN), pad(phones, True, UNKNOWN)


def delayed(numbers: Tensor, frames: int, length: int) -> Tensor:
    """Return numbers [n] so many frames later, [length]; what is not known is UNKNOWN."""
    return F.pad(numbers[: max(0, length - frames)], (frames, length), value=UNKNOWN)[:length]


@torch.no_grad()
def agreement(encoder: ContentEncoder, corpus: Sequence[Told], knows: Tensor, lag: int) -> tuple[float, float]:
    """Return how often the phoneme that a code tells is the one said, and how often it is the code that is wanted.

    Raises ValueError where no phoneme is known; no code: the second is not a number.
    """
    tells, quantizer = knows.argmax(1), quantizer_of(encoder)
    right: list[Tensor] = []
    alike: list[Tensor] = []
    for told in corpus:
        codes = quantizer.nearest(points(encoder, told.heard[0].float().unsqueeze(0))[0])
        for found, wanted, after, figures in (
            (tells[codes], told.phones, lag, right), (codes, told.codes, 0, alike)
        ):  # fmt: skip
            wanted = delayed(wanted, after, len(codes))
            figures.append((found == wanted)[wanted != UNKNOWN])
    if not sum(map(len, right)):
        raise ValueError("nothing is known of what is said")
    return float(torch.cat(right).float().mean()), float(torch.cat(alike).float().mean())
