"""Teaching a small network where in a content encoder's codebook the frames of a recogniser lie.

The point wanted of a frame is what the content encoder itself makes of speech that it knows: of synthetic voices, by
whom the language model learnt to speak, and of a person what it makes of the voice that says the same at that moment.
Points are compared by the codes that would share the frame, for nothing else of them is heard.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.streamvoiceanon.full_context import TURN, FullContext
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.matching import log_likeness

BATCH, LONGEST = 16, 125  # utterances, content frames of each
PEAK_RATE, LAST_SHARE, WARMUP, WEIGHT_DECAY = 1.5e-3, 0.03, 100, 0.02


@dataclass(frozen=True)
class Wanted:
    """An utterance: the recogniser's frames, heard in one way or several, each [2n, width]; the points [n, code width]
    wanted of it."""

    heard: tuple[Tensor, ...]
    points: Tensor


def fit(
    network: FullContext, corpus: Sequence[Wanted], codebook: Tensor, spread: float, steps: int, seed: int
) -> Iterator[float]:
    """Train the network from random weights; yield the cross-entropy of each step, nats a frame.

    Between the shares that the codes [codes, code width] of the `codebook` have of the point wanted and of the point
    found, where shares fall by e with every `spread` of squared distance. Raises ValueError where it is not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    initialise(network, seed)
    standardise(network, corpus)
    network.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    sharpness = torch.tensor(1.0 / spread)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of what drops out
        for step in range(steps):
            cosine = (1 + math.cos(math.pi * step / steps)) / 2
            rate = PEAK_RATE * min(1.0, (step + 1) / WARMUP) * (LAST_SHARE + (1 - LAST_SHARE) * cosine)
            for group in optimizer.param_groups:
                group["lr"] = rate
            heard, points, known = draw(corpus, generator)
            found = log_likeness(network(heard)[known], codebook, sharpness).log_softmax(-1)
            shares = log_likeness(points[known], codebook, sharpness).softmax(-1)
            loss = -(shares * found).sum(-1).mean()
            if not loss.isfinite():
                raise ValueError(f"step {step}: the loss is not a number")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            yield float(loss.detach())
    network.eval().requires_grad_(False)


def standardise(network: FullContext, corpus: Sequence[Wanted]) -> None:
    """Let the network know how its frames are spread: as those of the recordings as they are."""
    frames = torch.cat([wanted.heard[0].float() for wanted in corpus])
    network.mean.copy_(frames.mean(0))
    network.deviation.copy_(frames.std(0).clamp(min=1e-4))


def draw(corpus: Sequence[Wanted], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return crops that are drawn: frames [B, 2n, width], points [B, n, code width], and which of them are speech and
    not what fills a short one up, [B, n]."""
    heard, points, lengths = [], [], []
    for index in torch.randint(len(corpus), (BATCH,), generator=generator).tolist():
        wanted = corpus[index]
        way = wanted.heard[int(torch.randint(len(wanted.heard), (), generator=generator))]
        frames = min(len(wanted.points), LONGEST)
        start = int(torch.randint(len(wanted.points) - frames + 1, (), generator=generator))
        heard.append(way[TURN * start : TURN * (start + frames)].float())
        points.append(wanted.points[start : start + frames].float())
        lengths.append(frames)
    pad = nn.utils.rnn.pad_sequence
    known = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return pad(heard, True), pad(points, True), known


@torch.no_grad()
def agreement(network: FullContext, corpus: Sequence[Wanted], codebook: Tensor) -> float:
    """Return how often the nearest code is the one wanted, of recordings as they are."""
    alike = []
    for wanted in corpus:
        found, want = (
            log_likeness(points, codebook, torch.tensor(1.0)).argmax(-1)
            for points in (network(wanted.heard[0].float().unsqueeze(0))[0], wanted.points)
        )
        alike.append((found == want).float())
    return float(torch.cat(alike).mean())
