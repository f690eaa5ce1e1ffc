"""What the scripts beside this one have a synthesizer say, and what it gives back."""

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True)
class Utterance:
    """What is to be said; `voice` names the synthesizer's voices whose mean it is, one oftener to weigh more."""

    utt_id: str
    speaker_id: str
    voice: tuple[str, ...]
    emotion: str
    text: str

    @property
    def gender(self) -> str:
        """Kokoro's names: a language, f or m, an underscore."""
        return self.voice[0][1]


@dataclass(frozen=True)
class Spoken:
    """Float samples at SAMPLE_RATE; the token that each phoneme was, and where it ends, in seconds.

    The first token and the last one are silence, "".
    """

    samples: np.ndarray
    phonemes: list[str]
    ends: np.ndarray
