"""Official trials: who is compared with whom, where a table says so and the audit does not draw it.

`voxveil prepare vpc` writes such a table beside an index: rows of `enrolment_speaker`, `utt_id`, `mated` and `subset`
(the name of the list that the row comes from), while the index says in its column `role` which utterances are enrolled.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metrics.trials import EnrolmentTrialSplit, Trials
from operators.schema import InputError
from pipelines.config import Job
from pipelines.prepare.vpc import TRIAL_SCHEMA, trials_path
from pipelines.survey import open_index, read_batches


@dataclass(frozen=True)
class OfficialTrials:
    """The comparisons of a table, row by row, and the utterances by which speakers are enrolled."""

    source: str
    digest: str
    enrolment: frozenset[str]
    speakers: tuple[str, ...]
    utterances: tuple[str, ...]
    lists: tuple[str, ...]

    def split(self, utt_ids: list[str], speakers: list[str]) -> EnrolmentTrialSplit:
        """Return which rows are enrolled and which are tried; rows that no trial needs are on neither side."""
        enrolled, tried = set(self.speakers), set(self.utterances)
        known = [row for row, name in enumerate(utt_ids) if name in self.enrolment and speakers[row] in enrolled]
        return EnrolmentTrialSplit(
            np.array(known, np.int64),
            np.array([row for row, name in enumerate(utt_ids) if name in tried], np.int64),
            (),
        )

    def listed(self, speakers: list[str], utterances: list[str]) -> dict[str, NDArray[np.bool_]]:
        """Return for each list which of `speakers` [S] it compares with which of `utterances` [K], [S, K]."""
        row_of = {name: row for row, name in enumerate(speakers)}
        column_of = {name: column for column, name in enumerate(utterances)}
        matrices = {name: np.zeros((len(row_of), len(column_of)), bool) for name in sorted(set(self.lists))}
        for speaker, utterance, name in zip(self.speakers, self.utterances, self.lists, strict=True):
            if speaker in row_of and utterance in column_of:
                matrices[name][row_of[speaker], column_of[utterance]] = True
        return matrices


def keep_listed(trials: Trials, listed: NDArray[np.bool_]) -> Trials:
    """Keep the trials that a list has: `listed` [S, K] by the codes of speaker and utterance. Raises ValueError where
    none of them is mated, or all are."""
    return trials.select(listed[trials.enrolment_speaker, np.asarray(trials.trial_utterance)])


def find_trials(job: Job) -> Path | None:
    """Return the table of official trials that a job names, or else the one beside its index, None without either."""
    if job.trials is not None:
        return Path(job.trials)
    beside = trials_path(Path(job.index))
    return beside if "://" not in job.index and Path(job.index).is_file() and beside.is_file() else None


def read_trials(job: Job) -> OfficialTrials | None:
    """Return the official trials of a job, None where it has none. Raises InputError where they do not fit it."""
    path = find_trials(job)
    if path is None:
        return None
    try:
        content = path.read_bytes()
        table = pq.read_table(pa.BufferReader(content), schema=TRIAL_SCHEMA)
    except (OSError, pa.ArrowInvalid) as fault:
        why = str(fault).splitlines()[0][:120]
        raise InputError(
            f"the trials {path} cannot be read: {why}; `voxveil prepare vpc` writes such a table"
        ) from None
    if table.num_rows == 0 or any(table[name].null_count for name in table.column_names):
        raise InputError(
            f"the trials {path} are empty or have empty cells; write them again with `voxveil prepare vpc`"
        )
    speaker_of, enrolment = _roles(job.index, path)
    columns: dict[str, list] = {name: table[name].to_pylist() for name in table.column_names}
    speakers, utterances = columns["enrolment_speaker"], columns["utt_id"]
    enrolled = {speaker_of[utt_id] for utt_id in enrolment}
    _check(path, speaker_of, enrolment, enrolled, columns)
    digest = hashlib.sha256(content).hexdigest()
    return OfficialTrials(path.name, digest, enrolment, tuple(speakers), tuple(utterances), tuple(columns["subset"]))


def _roles(index: str, path: Path) -> tuple[dict[str, str], frozenset[str]]:
    """Return the speaker of each utterance of an index, and which utterances are enrolled."""
    dataset = open_index(index)[0]
    if "role" not in dataset.schema.names:
        raise InputError(
            f"the trials {path} need a column role in {index} that says which utterances are for enrolment; "
            "`voxveil prepare vpc` writes both"
        )
    speaker_of: dict[str, str] = {}
    enrolment: set[str] = set()
    for batch in read_batches(dataset, ["utt_id", "speaker_id", "role"], index):
        for row in batch.to_pylist():
            if row["utt_id"] and row["speaker_id"]:
                speaker_of[row["utt_id"]] = row["speaker_id"]
                if row["role"] == "enrolment":
                    enrolment.add(row["utt_id"])
    return speaker_of, frozenset(enrolment)


def _check(
    path: Path, speaker_of: Mapping[str, str], enrolment: frozenset[str], enrolled: set[str], columns: dict[str, list]
) -> None:
    """Raise InputError for the first row that names what the index does not have, or contradicts it."""
    rows = zip(columns["enrolment_speaker"], columns["utt_id"], columns["mated"], strict=True)
    for number, (speaker, utt_id, mated) in enumerate(rows, 1):
        problem = None
        if utt_id not in speaker_of:
            problem = f"the index has no utterance {utt_id}"
        elif utt_id in enrolment:
            problem = f"utterance {utt_id} is enrolled, so the attacker would know the answer"
        elif speaker not in enrolled:
            problem = f"speaker {speaker} is enrolled by no utterance of the index"
        elif mated != (speaker_of[utt_id] == speaker):
            problem = f"the index says otherwise of whether {utt_id} was spoken by {speaker}"
        if problem:
            raise InputError(f"the trials {path}, row {number}: {problem}; trials and index must be of one corpus")
    kinds = set(columns["mated"])
    if len(kinds) == 1:
        missing = "compares two people" if kinds == {True} else "compares a person with themselves"
        raise InputError(f"the trials {path}: none of {len(columns['mated'])} {missing}, so no error rate exists")
