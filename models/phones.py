"""Tells the phonemes of English from the frames of Whisper's encoder, fifty distributions a second.

The head is this project's own, trained by `pipelines.train_phones` on synthetic speech whose synthesizer knew when it
said what. It hears the past and the future, and is a teacher for networks that may not.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PAUSE = ""  # the phoneme of silence
STRESS, LENGTH = frozenset("\u02c8\u02cc"), "\u02d0"  # they belong to the vowel that follows, or that was before
UNKNOWN = "unknown"  # stands in an alignment for what could not be aligned
UNSPOKEN = STRESS | {LENGTH, UNKNOWN, " "}  # the last is the gap between two words
TRUST = 0.6  # of an alignment against what the head hears
PUNCTUATION = frozenset('.,;:!?—…"()“”')
LONGEST_GAP = 0.1  # seconds: a longer gap between two words is a pause


class PhoneHead(nn.Module):
    """Frames [B, n, width] to log-probabilities of `phones`, [B, n, phones]; sees two frames to each side."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, phones: Sequence[str], hidden: int = 256) -> None:
        super().__init__()
        self.phones, self.metadata = tuple(phones), dict[str, str]()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Conv1d(width, hidden, 5, padding=2), nn.GELU(), nn.Dropout(0.2), nn.Conv1d(hidden, len(phones), 1)
        )

    def forward(self, frames: Tensor) -> Tensor:
        x = (frames - self.mean) / self.deviation
        return self.layers(x.transpose(1, 2)).transpose(1, 2).log_softmax(-1)

    def save(self, path: Path) -> None:
        """Write the head in half precision. Equal heads give equal bytes."""
        from safetensors.torch import save_file

        state = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        save_file(state, path, {"phone_head": json.dumps({"phones": self.phones, **self.metadata}, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> "PhoneHead":
        """Read a head that `save` wrote. Raises ValueError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})["phone_head"])
                state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            hidden, width, _ = state["layers.0.weight"].shape
            head = cls(width, metadata.pop("phones"), hidden)
            head.load_state_dict(state)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is not a phoneme head: {error}") from None
        head.metadata = metadata
        return head.eval().requires_grad_(False)


def phones_at(names: Sequence[str], ends: Sequence[float], frames: int, rate: float) -> list[str | None]:
    """Return the phoneme at the middle of each of `frames`, `rate` a second; None where a frame is between two words.

    `names` are a synthesizer's tokens and `ends` when each of them ends, in seconds.
    """
    said = [_phone(name, end - start) for name, start, end in zip(names, [0.0, *ends[:-1]], ends, strict=True)]
    following = None
    for place in reversed(range(len(names))):
        if names[place] in STRESS:
            said[place] = following
        following = said[place]
    for place in range(1, len(names)):
        if names[place] == LENGTH:
            said[place] = said[place - 1]
    middles = (np.arange(frames) + 0.5) / rate
    return [said[min(place, len(said) - 1)] for place in np.searchsorted(ends, middles, side="right")]


def read_alignment(path: Path) -> tuple[list[str], list[float]]:
    """Read a synthesizer's tokens and when each of them ends, in seconds: a token and its end a line.

    Raises ValueError that names the file where it says anything else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            said = [(name, float(end)) for name, end in csv.reader(file)]
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path} is not an alignment, a phoneme and its end in seconds a line: {error}") from None
    ends = [end for _, end in said]
    if not ends or not np.isfinite(ends).all() or np.any(np.diff(ends) < 0):
        raise ValueError(f"{path} is not an alignment: it is empty, or its ends are not numbers that rise")
    return [name for name, _ in said], ends


def trusting(heard: NDArray[np.floating], known: Sequence[str], said: Sequence[str | None]) -> NDArray[np.float32]:
    """Return probabilities [n, phones] that are mostly what was `said` in each frame, where that is known.

    `known` names the phonemes of what was `heard`, [n, phones].
    """
    place = {phone: number for number, phone in enumerate(known)}
    told = heard.astype(np.float32)
    for frame, phone in enumerate(said):
        if phone in place:
            told[frame] *= 1.0 - TRUST
            told[frame, place[phone]] += TRUST
    return told


def _phone(name: str, seconds: float) -> str | None:
    if name == PAUSE or name in PUNCTUATION or (name == " " and seconds > LONGEST_GAP):
        return PAUSE
    return None if name in UNSPOKEN else name


@torch.inference_mode()
def distributions(head: PhoneHead, frames: NDArray[np.floating]) -> NDArray[np.float32]:
    """Map encoder frames [n, width] to probabilities [n, phones]."""
    return head(torch.from_numpy(frames.astype(np.float32)).unsqueeze(0))[0].exp().numpy()
