"""Training the content encoder: codes that say what was said and how, and not who speaks.

The encoder's features are quantized to the signs of a few components on the unit sphere (binary spherical quantization,
Zhao et al., 2024, arXiv 2406.07548); from the codes alone a small head has to tell the teacher's frames: Whisper's
features, or phonemes and prosody. Two entropies keep the codes in use: each frame should be sure of its code, all of
them together should use every code. Where speakers are labelled, a classifier tries to recognise them from the codes,
and the encoder, by a reversed gradient, tries to let it fail (Ganin & Lempitsky, 2015, arXiv 1409.7495). Where texts
are known, the codes may have to spell them. Head, classifier and speller serve training alone.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon.content_encoder import BinarySphericalQuantizer, ContentEncoder
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.training.audio import within
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.spelling import Speller, misspelt, spelling_loss
from models.streamvoiceanon.training.standardiser import Standardiser
from models.streamvoiceanon.training.task import Batch
from models.streamvoiceanon.whisper_trunk import RING


@dataclass(frozen=True)
class ContentTaskConfig:
    """What the loss is made of.

    `teacher_width` is the width of the teacher's frames; the first `phones` of it are probabilities that sum to one,
    and what follows counts by `prosody_weight` (0 phones: all of it is features). `reach` is how many frames before and
    after its own the head may read (the language model reads ahead as well, by its delay). A code tells the teacher's
    frame of `lag` frames before: it has heard so much of what follows, and the latency is the language model's delay,
    which has to be as much longer. `sharpness` is that of the soft assignment to codes. `feature_weight` is how much
    it counts that the features, before they are quantized, tell the teacher's frames as well, by a head of their own;
    0 leaves it out. `speakers` is how many there are to forget; 0 leaves the classifier out, and a `spelling_weight` of
    0 the speller.
    """

    teacher_width: int
    phones: int = 0
    prosody_weight: float = 1.0
    head_width: int = 256
    reach: int = 2
    lag: int = 0
    sharpness: float = 20.0
    certainty_weight: float = 0.1
    diversity_weight: float = 0.2
    feature_weight: float = 0.0
    speakers: int = 0
    forgetting_weight: float = 0.1
    spelling_weight: float = 0.0
    seed: int = 0


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: float) -> Tensor:
        context.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.weight * gradients[0], None


class ContentPlayer(nn.Module):
    """What one optimizer moves: the encoder, and what of it serves training alone."""

    def __init__(self, encoder: ContentEncoder, config: ContentTaskConfig) -> None:
        super().__init__()
        bits = encoder.config.bits
        self.standardiser = Standardiser(config.teacher_width)
        self.head = _teller(bits, config)
        self.feature_head = _teller(encoder.config.widths[-1], config) if config.feature_weight else None
        self.listener = nn.Sequential(nn.Conv1d(bits, config.head_width, 5, padding=2), nn.GELU())
        self.namer = nn.Linear(2 * config.head_width, config.speakers) if config.speakers else None
        if self.namer is None:
            self.listener = nn.Sequential()
        self.speller = Speller(bits, config.head_width) if config.spelling_weight else None
        initialise(self, config.seed)
        self.encoder = encoder


def _teller(width: int, config: ContentTaskConfig) -> nn.Module:
    """A head from [B, width, frames] to the teacher's [B, teacher width, frames]."""
    return nn.Sequential(
        nn.Conv1d(width, config.head_width, 2 * config.reach + 1, padding=config.reach),
        nn.GELU(),
        nn.Conv1d(config.head_width, config.head_width, 1),
        nn.GELU(),
        nn.Conv1d(config.head_width, config.teacher_width, 1),
    )


class ContentTask:
    """Trains a `ContentEncoder`.

    Its batches are `audio.collate_waves`' with `teacher` and, where speakers are to be forgotten, `speaker`, and where
    codes are to spell, `letters`.
    """

    exported: tuple[str, ...] = ("content",)

    def __init__(self, encoder: ContentEncoder, frames: FrameConfig, config: ContentTaskConfig) -> None:
        self.config = config
        self._frames = frames
        self._player = ContentPlayer(encoder, config).train().requires_grad_(True)
        self.players: dict[str, nn.Module] = {"content": self._player}

    def losses(self, player: str, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """ "total", "distillation", "certainty", "diversity" (nats that miss); if asked for "speaker", "spelling"."""
        batch = self._lagging(batch)
        mask = self._mask(batch)
        self._player.standardiser.gather(batch["teacher"][mask].float())
        places = torch.randint(0, RING, (len(batch["samples"]),), generator=generator)
        return self._figures(batch, mask, places)

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The losses, "explained" (the share of the teacher's variance that the codes tell; chance is 0), and "codes".

        Where the teacher tells phonemes, "explained" is of prosody, "phones" the cross-entropy of phonemes in nats, and
        "agreement" how often the likeliest is the teacher's. "codes" is the perplexity of the codes as a share of their
        number, "misspelt" the share of letters that are. "total" is distillation and spelling: how sure and how diverse
        codes are says nothing of how good they are.
        """
        batch = self._lagging(batch)
        mask = self._mask(batch)
        figures = self._figures(batch, mask)
        figures["total"] = figures["distillation"]
        quantized = self._quantized(batch)
        if self._player.speller is not None:
            figures["total"] = figures["total"] + self.config.spelling_weight * figures["spelling"]
            lag = self.config.lag
            likely = self._player.speller((quantized * mask.unsqueeze(2)).transpose(1, 2)[..., lag:])
            errors, letters = misspelt(likely, mask.sum(1), batch["letters"], batch["letter_counts"])
            if letters:
                figures["misspelt"] = torch.tensor(errors / letters)
        codes = code_numbers(quantized[mask] > 0)
        counts = torch.bincount(codes, minlength=2**self._player.encoder.config.bits).float()
        entropy = torch.special.entr(counts / counts.sum()).sum()
        figures["codes"] = entropy.exp() / len(counts)
        return figures

    def export(self) -> dict[str, dict[str, Tensor]]:
        """The encoder's weights; head and classifier are left out."""
        state = self._player.encoder.state_dict()
        return {"content_encoder": {key: value.detach().cpu().clone() for key, value in state.items()}}

    def _lagging(self, batch: Batch) -> Batch:
        """Return the batch with the teacher's frames `lag` later; what comes before the first says nothing."""
        teacher, lag = batch["teacher"], self.config.lag
        return {**batch, "teacher": F.pad(teacher, (0, 0, lag, 0))[:, : teacher.shape[1]]}

    def _mask(self, batch: Batch) -> Tensor:
        """Frames that are within their utterance and tell something, bool [B, frames]."""
        mask = within(batch["lengths"], batch["samples"].shape[1] // self._frames.samples, self._frames.samples)
        return mask & (torch.arange(mask.shape[1], device=mask.device) >= self.config.lag)

    def _heard(self, batch: Batch, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The encoder's features [B, frames, width], and what of them is quantized: points on the unit sphere."""
        encoder, samples = self._player.encoder, batch["samples"]
        state = encoder.initial_state(len(samples), samples.shape[1] // self._frames.samples, places)
        x, _ = encoder.features(samples, state, batch["lengths"] // self._frames.hop)
        quantizer = encoder.quantizer.residual_bsq.rvqs[0]
        assert isinstance(quantizer, BinarySphericalQuantizer)
        return x, F.normalize(quantizer.project_in(x).float(), dim=-1)  # the points: (B, frames, bits)

    def _quantized(self, batch: Batch) -> Tensor:
        return on_corner(self._heard(batch)[1])

    def _figures(self, batch: Batch, mask: Tensor, places: Tensor | None = None) -> dict[str, Tensor]:
        config, player = self.config, self._player
        features, points = self._heard(batch, places)
        codes = on_corner(points).transpose(1, 2) * mask.unsqueeze(1)  # (B, bits, frames)
        told = player.head(codes).transpose(1, 2)[mask]
        wanted = player.standardiser(batch["teacher"][mask].float())
        heard = batch["teacher"][mask].float()
        figures = self._distance(told, heard, wanted)
        certainty, diversity = entropies(points[mask], config.sharpness)
        figures |= {"certainty": certainty, "diversity": player.encoder.config.bits * math.log(2) - diversity}
        total = figures["distillation"] + config.certainty_weight * certainty - config.diversity_weight * diversity
        if player.feature_head is not None:
            masked = features.transpose(1, 2) * mask.unsqueeze(1)
            unquantized = self._distance(player.feature_head(masked).transpose(1, 2)[mask], heard, wanted)
            figures |= {f"features.{name}": value for name, value in unquantized.items()}
            total = total + config.feature_weight * unquantized["distillation"]
        if player.namer is not None and "speaker" in batch:  # held-out speakers have no number
            reversed_codes = _ReversedGradient.apply(codes, config.forgetting_weight)
            listened = player.listener(reversed_codes)
            logits = player.namer(pooled(listened, mask))
            figures["speaker"] = F.cross_entropy(logits, batch["speaker"])
            total = total + figures["speaker"]
        if player.speller is not None:
            likely = player.speller(codes[..., config.lag :])
            figures["spelling"] = spelling_loss(likely, mask.sum(1), batch["letters"], batch["letter_counts"])
            total = total + config.spelling_weight * figures["spelling"]
        return {"total": total, **{name: value.detach() for name, value in figures.items()}}

    def _distance(self, told: Tensor, heard: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """ "distillation" and what says how good it is, of frames [N, width]: told, heard, and heard standardised."""
        phones = self.config.phones
        squares = (told - wanted)[:, phones:].square().mean()
        explained = 1.0 - squares / wanted[:, phones:].square().mean()
        if not phones:
            cosine = (1.0 - F.cosine_similarity(told, wanted, dim=-1)).mean()
            return {"distillation": squares + cosine, "explained": explained}
        logits, said = told[:, :phones], heard[:, :phones]
        surprise = F.cross_entropy(logits.float(), said)
        return {
            "distillation": surprise + self.config.prosody_weight * squares,
            "phones": surprise,
            "agreement": (logits.argmax(-1) == said.argmax(-1)).float().mean(),
            "explained": explained,
        }


def on_corner(points: Tensor) -> Tensor:
    """Move points [..., bits] of the unit sphere to the nearest corner of the cube in it; the gradient passes."""
    corners = torch.where(points > 0, 1.0, -1.0) / points.shape[-1] ** 0.5
    return points + (corners - points).detach()


def code_numbers(bits: Tensor) -> Tensor:
    """Map bits [..., n] to numbers, the first bit the most significant, as the encoder does."""
    place = 2 ** torch.arange(bits.shape[-1] - 1, -1, -1, device=bits.device)
    return (bits * place).sum(-1)


def entropies(points: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Entropies in nats of the soft assignment of points [N, bits] to codes: the mean of each, and that of their mean.

    The probability of a code falls with the point's distance from its corner; it is a product over the bits, so the
    first is a sum over them. The second is taken over all 2^bits codes, which correlated bits cannot deceive.
    """
    bits = points.shape[-1]
    logits = points * (2.0 * sharpness / bits**0.5)
    sure = F.logsigmoid(logits)
    unsure = F.logsigmoid(-logits)
    certainty = -(sure.exp() * sure + unsure.exp() * unsure).sum(-1).mean()
    half = bits // 2  # a code's probability is the product of those of its halves: [N, 2^half] times [N, 2^rest]
    first, second = (_probabilities(sure[:, part], unsure[:, part]) for part in (slice(half), slice(half, None)))
    mean = first.T @ second / len(points)
    return certainty, torch.special.entr(mean).sum()


def _probabilities(ones: Tensor, zeros: Tensor) -> Tensor:
    """Map log-probabilities [N, bits] of ones and of zeros to those of all [N, 2^bits] words, exponentiated."""
    words = 2 ** ones.shape[1]
    place = torch.arange(words, device=ones.device).unsqueeze(1) >> torch.arange(ones.shape[1], device=ones.device) & 1
    set_bits = place.to(ones.dtype)  # (words, bits)
    return (ones @ set_bits.T + zeros @ (1.0 - set_bits).T).exp()


def pooled(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and deviation over time, [B, 2 channels], of [B, channels, frames] where `mask` [B, frames] holds."""
    weight = mask.unsqueeze(1) / mask.sum(1).clamp(min=1).view(-1, 1, 1)
    mean = (x * weight).sum(2)
    deviation = ((x - mean.unsqueeze(2)).square() * weight).sum(2).add(1e-6).sqrt()
    return torch.cat([mean, deviation], dim=1)
