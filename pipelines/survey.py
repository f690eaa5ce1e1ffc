"""Survey: one light read of an index before any work, over its ids and labels, never its audio.

It finds what stops a job (no such file, missing columns, no rows), what quarantines rows as a whole (missing and
duplicate ids) and what the audits will have to work with (speakers, labels, languages).
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.fs

from operators.schema import InputError, check_columns
from pipelines.config import Job


@dataclass(frozen=True)
class Survey:
    """What an index holds. `files` are paths or URIs; `folder` is the one from which audio paths start."""

    files: tuple[str, ...]
    folder: str
    schema: pa.Schema
    rows: int
    speakers: int
    utterances_per_speaker: dict[str, int]
    languages: tuple[str, ...]
    duplicate_ids: frozenset[str]
    duplicate_rows: int
    missing_id_rows: int

    @property
    def usable_rows(self) -> int:
        return self.rows - self.duplicate_rows - self.missing_id_rows


def open_index(index: str) -> tuple[pds.Dataset, str]:
    """Return the Arrow dataset of an index and the folder that its audio paths start from. Raises InputError."""
    try:
        uri = index if "://" in index else str(_absolute(index))
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        information = filesystem.get_file_info(path)
    except (pa.ArrowInvalid, OSError) as fault:
        raise InputError(f"cannot open the index {index}: {str(fault).splitlines()[0]}") from None
    if information.type == pyarrow.fs.FileType.NotFound:
        raise InputError(f"the index {index} does not exist; `voxveil prepare --help` shows how to make one")
    is_folder = information.type == pyarrow.fs.FileType.Directory
    if is_folder:
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
        files = sorted(entry.path for entry in found if entry.path.endswith(".parquet"))
        if not files:
            raise InputError(
                f"the folder {index} holds no .parquet file; `voxveil prepare --help` shows how to make one"
            )
    else:
        files = [path]
    try:
        dataset = pds.dataset(files, filesystem=filesystem, format="parquet")
    except (pa.ArrowInvalid, OSError) as fault:
        raise InputError(f"{index} is not Parquet: {str(fault).splitlines()[0][:120]}") from None
    folder = path if is_folder else path.rpartition("/")[0]
    scheme = uri.partition("://")[0] + "://" if "://" in uri else ""
    return dataset, scheme + folder


def survey_index(index: str, extra_columns: tuple[str, ...] = ()) -> Survey:
    """Read the ids and labels of an index, batch by batch. Raises InputError where no job can run on it."""
    dataset, folder = open_index(index)
    scheme = folder[: folder.index("://") + 3] if "://" in folder else ""
    check_columns(dataset.schema, index, extra_columns)
    columns = [name for name in ("utt_id", "speaker_id", "language") if name in dataset.schema.names]
    hashes: list[np.ndarray] = []
    speakers: Counter[str] = Counter()
    languages: set[str] = set()
    rows = missing = 0
    for batch in dataset.to_batches(columns=columns):
        rows += len(batch)
        known = pc.and_(pc.is_valid(batch["utt_id"]), pc.is_valid(batch["speaker_id"]))
        batch = batch.filter(known)
        missing += len(known) - len(batch)
        hashes.append(_hash_ids(batch["utt_id"]))
        for entry in pc.value_counts(batch["speaker_id"]):
            speakers[str(entry["values"])] += entry["counts"].as_py()
        if "language" in columns:
            languages |= {value for value in pc.unique(batch["language"]).to_pylist() if value}
    if rows == 0:
        raise InputError(f"{index} has no rows")
    duplicates, duplicate_rows = _find_duplicates(dataset, np.concatenate(hashes))
    return Survey(
        files=tuple(scheme + path for path in dataset.files),
        folder=folder,
        schema=dataset.schema,
        rows=rows,
        speakers=len(speakers),
        utterances_per_speaker=dict(speakers),
        languages=tuple(sorted(languages)),
        duplicate_ids=duplicates,
        duplicate_rows=duplicate_rows,
        missing_id_rows=missing,
    )


def _find_duplicates(dataset: pds.Dataset, hashes: np.ndarray) -> tuple[frozenset[str], int]:
    """Return the ids that several rows carry, and how many rows that is; the ids are read again where there are any."""
    values, counts = np.unique(hashes, return_counts=True)
    repeated = values[counts > 1]
    if len(repeated) == 0:
        return frozenset(), 0
    seen: Counter[str] = Counter()
    for batch in dataset.to_batches(columns=["utt_id", "speaker_id"]):
        ids = batch.filter(pc.and_(pc.is_valid(batch["utt_id"]), pc.is_valid(batch["speaker_id"])))["utt_id"]
        seen.update(np.array(ids.to_pylist(), dtype=object)[np.isin(_hash_ids(ids), repeated)])
    twice = {name: count for name, count in seen.items() if count > 1}
    return frozenset(twice), sum(twice.values())


def _hash_ids(ids: pa.Array) -> np.ndarray:
    """Return 64-bit hashes [n] of ids: eight bytes a row are all that a large index keeps in memory."""
    import hashlib

    return np.fromiter(
        (int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in ids.to_pylist()),
        dtype=np.uint64,
        count=len(ids),
    )


def _absolute(path: str) -> str:
    from pathlib import Path

    return str(Path(path).absolute())


def check_first_rows(job: Job, survey: Survey, rows: int = 8) -> list[str]:
    """Decode and screen the first rows; return what is wrong with them, a phrase a row."""
    from operators.decode import Decode
    from operators.schema import QUARANTINE_REASONS
    from operators.screen import Screen

    table = open_index(job.index)[0].head(rows, columns=["utt_id", "audio"])
    batch = {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}
    decoded = Screen(job.sample_rate, job.min_seconds)(Decode(survey.folder, job.sample_rate, job.max_seconds)(batch))
    found = zip(decoded["utt_id"], decoded["reason"], strict=True)
    return [f"{utt_id}: {QUARANTINE_REASONS[reason]}" for utt_id, reason in found if reason]
