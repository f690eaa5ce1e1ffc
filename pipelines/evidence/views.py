"""Views: the feature tables of an audit, both versions of a corpus row for row."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from metrics.trials import EnrolmentTrialSplit, split_enrolment_trial
from pipelines.trials import OfficialTrials


@dataclass(frozen=True)
class Views:
    """Row i of `original` and row i of `anonymized` are the same utterance, `utt_ids[i]` by `speakers[i]`."""

    utt_ids: list[str]
    speakers: list[str]
    original: pa.Table
    anonymized: pa.Table

    def carried(self, name: str) -> list[str | None]:
        """Return a column of the index that was carried along."""
        return self.original[name].to_pylist()

    def split(self, seed: int, official: OfficialTrials | None = None) -> EnrolmentTrialSplit:
        """Return which rows the attacker knows and which are tried: as official trials have it, or else drawn, with
        recording sessions kept apart where they are named."""
        if official is not None:
            return official.split(self.utt_ids, self.speakers)
        return split_enrolment_trial(self.utt_ids, self.speakers, seed, self.sessions)

    @property
    def sessions(self) -> list[str | None]:
        """The recording session of each row, None where the index names none."""
        return self.carried("session") if "session" in self.original.column_names else [None] * len(self.utt_ids)


def read_views(folder: Path) -> Views:
    """Read `work/features`. Raises ValueError where the views do not hold the same utterances."""
    table = pds.dataset(folder, format="parquet").to_table()
    original, anonymized = (
        without_repeats(table.filter(pc.equal(table["view"], view)).sort_by("utt_id"))
        for view in ("original", "anonymized")
    )
    ids = original["utt_id"].to_pylist()
    if ids != anonymized["utt_id"].to_pylist():
        raise ValueError("the audited views hold different utterances; start the run again without --resume")
    return Views(ids, original["speaker_id"].to_pylist(), original, anonymized)


def without_repeats(table: pa.Table) -> pa.Table:
    """Return a table sorted by `utt_id` with one row an id: a retried batch may have written a row twice."""
    ids = np.array(table["utt_id"].to_pylist(), dtype=object)
    return table.filter(pa.array(np.concatenate([[True], ids[1:] != ids[:-1]]).astype(bool))) if len(ids) else table


def stack(table: pa.Table, column: str) -> np.ndarray:
    """Return a column of equally long vectors as an array [N, D]."""
    return np.stack([np.asarray(row, np.float32) for row in table[column].to_numpy()])
