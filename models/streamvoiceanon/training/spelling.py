"""Spelling: codes that have to tell the letters of what was said, by connectionist temporal classification.

Graves et al., 2006: the letters come in their order, each at whatever frame; nobody has to say when.
"""

import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"  # 0 is CTC's blank, a letter its place here and one more
READ_ALOUD = "&%@#"  # punctuation to Unicode


def spell(text: str) -> list[int]:
    """Return the letters of a text as numbers from 1, without punctuation and accents.

    None where a text has what is read in several ways or in other letters: figures, symbols, another script.
    """
    plain = [
        c for c in unicodedata.normalize("NFKD", text.lower().replace("\u2019", "'")) if not unicodedata.combining(c)
    ]
    if any((unicodedata.category(c)[0] in "LNS" or c in READ_ALOUD) and c not in LETTERS for c in plain):
        return []
    kept = "".join(c if c in LETTERS else " " for c in plain)
    return [LETTERS.index(c) + 1 for c in " ".join(kept.split())]


class Speller(nn.Module):
    """Bits of codes [B, bits, frames] to log-probabilities of letters [B, frames, letters + 1]."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(bits, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, len(LETTERS) + 1, 1),
        )

    def forward(self, bits: Tensor) -> Tensor:
        return self.layers(bits).transpose(1, 2).float().log_softmax(-1)


def spelling_loss(likely: Tensor, frames: Tensor, letters: Tensor, counts: Tensor) -> Tensor:
    """Mean loss a letter of items whose letters are known.

    `likely` [B, n, letters + 1] over `frames` [B] of each; `letters` [B, longest] of which `counts` [B] are an item's,
    0 where nobody knows them. An item with more letters than frames costs nothing.
    """
    known = counts > 0
    if not known.any():
        return likely.sum() * 0.0
    return F.ctc_loss(likely[known].transpose(0, 1), letters[known], frames[known], counts[known], zero_infinity=True)


def misspelt(likely: Tensor, frames: Tensor, letters: Tensor, counts: Tensor) -> tuple[int, int]:
    """Return how many letters the likeliest spelling gets wrong, and how many there are; arguments as above."""
    errors = total = 0
    for row in torch.nonzero(counts > 0).flatten().tolist():
        best = torch.unique_consecutive(likely[row, : int(frames[row])].argmax(-1))
        wanted = letters[row, : int(counts[row])].tolist()
        errors += torchaudio.functional.edit_distance(best[best > 0].tolist(), wanted)
        total += len(wanted)
    return errors, total


def pad_letters(spelled: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Map letters of several items to [B, longest], filled up with 0, and how many each has, [B]."""
    counts = torch.tensor([len(letters) for letters in spelled])
    rows = [torch.tensor(letters, dtype=torch.int64) for letters in spelled]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), counts
