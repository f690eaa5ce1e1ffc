"""The interface that every anonymizer answers to, offline and live.

It knows nothing of files, of Ray or of who calls it: waves in, waves out. A voice is whatever the anonymizer speaks
with (a McAdams coefficient, a prompt with its style and timbre); callers draw one from a seed and hand it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor  # a name for the types alone: the command line reads this module and must answer at once

VoiceT = TypeVar("VoiceT")


class AnonymizerStream(Protocol):
    """One live call. Chunks may have any length; what was returned lags by at most `latency` seconds."""

    latency: float

    def push(self, samples: Tensor) -> Tensor:
        """Take source samples [n] and return the anonymized samples [m] that are ready, m >= 0."""
        ...

    def finish(self) -> Tensor:
        """Return the tail [m] and close: as many samples came out as went in. Raises ValueError when closed twice."""
        ...


class Anonymizer(Protocol[VoiceT]):
    """Turns speech of one person into speech of nobody.

    Waves are float32 [samples] in [-1, 1] at `sample_rate` hertz. `anonymize` is batched; what one utterance becomes
    depends on its wave, its voice, its seed and its speaker's usual pitch alone, never on the rest of the batch.
    """

    sample_rate: int

    def draw_voice(self, seed: int) -> VoiceT:
        """Return the voice that `seed` (0 to 2**64 - 1) stands for; equal seeds give equal voices."""
        ...

    def anonymize(
        self,
        waves: Sequence[Tensor],
        voices: Sequence[VoiceT],
        seeds: Sequence[int] | None = None,
        usual_pitch: Sequence[float | None] | None = None,
    ) -> list[Tensor]:
        """Return the anonymized waves, each as long as its source; `seeds` (default 0 each) drive sampling.

        `usual_pitch` is what is known of each speaker's mean pitch, in octaves above 1 Hz; who does not hear pitch
        apart from the rest has no use for it.
        """
        ...

    def open_stream(self, voice: VoiceT, seed: int = 0) -> AnonymizerStream:
        """Open a live stream that speaks with `voice`."""
        ...
