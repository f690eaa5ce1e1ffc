"""Finding the vectors of a content encoder's codebook, once its features tell what was said.

A few numbers are made of the features so that a head tells the teacher's frames from them as well as it can; the
codebook is k-means of these numbers. Signs (`content.py`), which training can pass a gradient through, have to cut the
same numbers at right angles; at equal bits a codebook loses half as much.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon.content_encoder import NearestQuantizer
from models.streamvoiceanon.training.initial import initialise

CROP, BATCH = 100, 16  # frames, utterances
SMALL_POINTS = 1e-3  # weight of the points' mean square: their scale is nobody's business otherwise
PEAK_RATE, LAST_SHARE = 2e-3, 0.05


@dataclass(frozen=True)
class Taught:
    """An utterance: the encoder's features [frames, width], and the teacher's frames [frames, phones + prosody]."""

    features: Tensor
    teacher: Tensor


class Teller(nn.Module):
    """Tells the teacher's frames from points: one head sees two frames to each side, another the frame alone."""

    def __init__(self, code_width: int, teacher_width: int, head_width: int = 256) -> None:
        super().__init__()
        self.around = nn.Sequential(
            nn.Conv1d(code_width, head_width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(head_width, head_width, 1),
            nn.GELU(),
            nn.Conv1d(head_width, teacher_width, 1),
        )
        self.alone = nn.Linear(code_width, teacher_width)

    def forward(self, points: Tensor) -> Tensor:
        """Map points [B, n, code_width] to the teacher's frames [B, n, teacher width]."""
        return self.around(points.transpose(1, 2)).transpose(1, 2)


def fit_quantizer(quantizer: NearestQuantizer, corpus: Sequence[Taught], phones: int, steps: int, seed: int) -> Teller:
    """Train the projection of a quantizer on a corpus, and set its codebook.

    `phones` of the teacher's channels are probabilities, the others are prosody. Return the head that tells the frames
    from points.
    """
    teller = Teller(quantizer.codebook.weight.shape[1], corpus[0].teacher.shape[1])
    initialise(quantizer, seed)
    initialise(teller, seed)
    every = torch.cat([taught.teacher for taught in corpus])
    mean, deviation = every.mean(0), every.std(0) + 1e-2
    generator = torch.Generator().manual_seed(seed)
    projection = [p for name, p in quantizer.named_parameters() if not name.startswith("codebook")]
    parameters = [*projection, *teller.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters)
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * (LAST_SHARE + (1 - LAST_SHARE) * cosine)
        features, teacher = draw(corpus, generator)
        points = quantizer.project(features)
        wanted = (teacher - mean) / deviation
        loss = distance(teller(points), teacher, wanted, phones)
        loss = (
            loss + 0.5 * distance(teller.alone(points), teacher, wanted, phones) + SMALL_POINTS * points.square().mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        points = torch.cat([quantizer.project(taught.features.float()) for taught in corpus])
        quantizer.codebook.weight.copy_(k_means(points, len(quantizer.codebook.weight), seed))
    return teller.eval()


def draw(corpus: Sequence[Taught], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return crops of equal length of utterances that are drawn: features [B, n, width] and the teacher's [B, n, D]."""
    chosen = [corpus[int(i)] for i in torch.randint(len(corpus), (BATCH,), generator=generator)]
    length = min(CROP, sorted(len(taught.features) for taught in chosen)[BATCH // 4])
    features, teacher = [], []
    for taught in chosen:
        spare = len(taught.features) - length
        if spare >= 0:
            first = int(torch.randint(spare + 1, (), generator=generator))
            features.append(taught.features[first : first + length].float())
            teacher.append(taught.teacher[first : first + length].float())
    return torch.stack(features), torch.stack(teacher)


def distance(told: Tensor, teacher: Tensor, wanted: Tensor, phones: int) -> Tensor:
    """Cross-entropy of phonemes and mean squared difference of prosody at unit variance, of frames [B, n, D]."""
    surprise = F.cross_entropy(told[..., :phones].flatten(0, 1), teacher[..., :phones].flatten(0, 1))
    return surprise + (told - wanted)[..., phones:].square().mean()


def k_means(points: Tensor, count: int, seed: int) -> Tensor:
    """Return `count` centres [count, n] of points [N, n]. Raises ValueError where there are fewer points than that."""
    from sklearn.cluster import KMeans

    if len(points) < count:
        raise ValueError(f"{len(points)} frames of speech are too few for {count} codes")
    fitted = KMeans(count, init="random", n_init=1, max_iter=20, random_state=seed).fit(points.numpy())
    return torch.from_numpy(fitted.cluster_centers_).float()


@torch.no_grad()
def agreement(
    quantizer: NearestQuantizer, teller: Teller, corpus: Sequence[Taught], phones: int, quantized: bool
) -> tuple[float, float]:
    """Return how often the likeliest phoneme is the teacher's, from codes or points, and the codes' bits a frame."""
    right = count = 0
    codes = []
    for taught in corpus:
        points = quantizer.project(taught.features.float())
        codes.append(quantizer.nearest(points))
        told = teller((quantizer.codebook(codes[-1]) if quantized else points).unsqueeze(0))[0]
        right += int((told[:, :phones].argmax(1) == taught.teacher[:, :phones].argmax(1)).sum())
        count += len(told)
    shares = torch.bincount(torch.cat(codes)).float() / count
    return right / max(1, count), float(torch.special.entr(shares).sum()) / math.log(2)
