"""Cut: recordings of people who recorded only one become several pieces, so that they show how their voice varies."""

import numpy as np

from operators.decode import Batch, object_array

SHORTEST_PIECE = 3.0  # seconds
MOST_PIECES = 4


def count_pieces(seconds: float) -> int:
    """Return into how many pieces a recording is cut: 1 where it is too short to be cut."""
    return max(1, min(MOST_PIECES, int(seconds / SHORTEST_PIECE)))


class Cut:
    """Cuts the utterances in `wanted` into equal pieces, each a row `<utt_id>#<number>`; all others stay as they are.

    Takes waves (float32 [samples]) at `sample_rate`; rows with a reason are not cut.
    """

    needs = ("utt_id", "wave", "reason")
    adds = ()

    def __init__(self, wanted: frozenset[str], sample_rate: int) -> None:
        self.wanted = wanted
        self.sample_rate = sample_rate

    def __call__(self, batch: Batch) -> Batch:
        rows: list[int] = []
        names: list[str] = []
        waves: list[np.ndarray] = []
        for row, (utt_id, wave) in enumerate(zip(batch["utt_id"], batch["wave"], strict=True)):
            cut = utt_id in self.wanted and not batch["reason"][row]
            pieces = np.array_split(wave, count_pieces(len(wave) / self.sample_rate)) if cut else [wave]
            rows += [row] * len(pieces)
            names += [f"{utt_id}#{number}" for number in range(len(pieces))] if cut else [utt_id]
            waves += [np.ascontiguousarray(piece) for piece in pieces]
        repeated = {name: column[rows] for name, column in batch.items()}
        return repeated | {"utt_id": np.array(names, dtype=object), "wave": object_array(waves)}
