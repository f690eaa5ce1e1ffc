"""Survey: one light read of an index before any work, over its ids and labels, never its audio.

It finds what stops a job (no such file, missing columns, no rows), what quarantines rows as a whole (missing and
duplicate ids) and what the audits will have to work with (speakers, labels, languages).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.fs

from governance.lineage import without_secrets
from models.emotion import canonical
from operators.schema import InputError, check_columns, survives_as_text
from operators.select import has_ids
from pipelines.config import Job

# What the passes call their own columns: `operators` add them, `features_schema` and `parts_schema` store them.
RESERVED_COLUMNS = frozenset(
    {
        *("view", "reason", "detail", "seconds", "audio_digest", "wave", "embedding", "transcript"),
        *("emotion_probabilities", "encoder_statistics", "dnsmos", "pitch"),
    }
)


@dataclass(frozen=True)
class Survey:
    """What an index holds. Audio paths start at `folder`, a path or URI; `files` are paths on its file system."""

    files: tuple[str, ...]
    folder: str
    schema: pa.Schema
    rows: int
    speakers: int
    languages: tuple[str, ...]
    unnamed_language: bool  # some row names none
    emotions: tuple[str, ...]  # that rows are labelled with, of those that the recognisers know
    digest: str
    duplicate_ids: frozenset[str]
    duplicate_rows: int
    missing_id_rows: int

    @property
    def usable_rows(self) -> int:
        return self.rows - self.duplicate_rows - self.missing_id_rows


def open_index(index: str) -> tuple[pds.Dataset, str]:
    """Return the Arrow dataset of an index and the folder that its audio paths start from. Raises InputError."""
    try:
        uri = index if "://" in index else str(Path(index).absolute())
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        information = filesystem.get_file_info(path)
    except Exception as fault:  # a file system of any library's may be behind the URI, with errors of its own
        shown = without_secrets(index)
        if "nrecognized filesystem type" in str(fault):
            why = "pyarrow knows no such kind of URI; name a path, file://, s3:// or gs://, or copy the index here"
        else:
            why = f"{type(fault).__name__}; check the path and the credentials"
        raise InputError(f"cannot open the index {shown}: {why}") from None
    if information.type == pyarrow.fs.FileType.NotFound:
        raise InputError(f"the index {index} does not exist; `voxveil prepare --help` shows how to make one")
    is_folder = information.type == pyarrow.fs.FileType.Directory
    if is_folder:
        if not path.strip("/"):
            raise InputError(
                f"the index {without_secrets(index)} is a whole file system; name a folder or a file in it"
            )
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
        inner = [(entry.path, entry.path[len(path) :].strip("/").split("/")) for entry in found]
        files = sorted(
            name
            for name, parts in inner
            if name.endswith(".parquet") and not any(p.startswith((".", "_")) for p in parts)
        )
        if not files:
            raise InputError(
                f"the folder {index} holds no .parquet file; `voxveil prepare --help` shows how to make one"
            )
    else:
        files = [path]
    try:
        dataset = pds.dataset(files, filesystem=filesystem, format="parquet")
        if len(files) > 1:
            dataset = with_all_columns(dataset, index)
    except (pa.ArrowInvalid, OSError) as fault:
        if "duplicate field names" in str(fault):
            raise InputError(f"{index} has two columns of one name; rename one") from None
        raise InputError(f"{index} is not Parquet: {str(fault).splitlines()[0][:120]}") from None
    folder = path if is_folder else path.rpartition("/")[0]
    return dataset, located(uri, folder)


def located(uri: str, path: str) -> str:
    """Return the URI of another path on the file system of `uri`, with its credentials and options (`?region=…`).

    Object stores count the bucket to the path, so that a path without a leading slash brings its own authority.
    """
    if "://" not in uri:
        return path
    parts = urlsplit(uri)
    login = parts.netloc.rpartition("@")[0]
    authority = parts.netloc if path.startswith("/") else f"{login}@" if login else ""
    return f"{parts.scheme}://{authority}{quote(path)}" + (f"?{parts.query}" if parts.query else "")


def survey_index(index: str, extra_columns: tuple[str, ...] = ()) -> Survey:
    """Read the ids and labels of an index, batch by batch. Raises InputError where no job can run on it."""
    dataset, folder = open_index(index)
    check_columns(dataset.schema, index, extra_columns)
    columns = [name for name in ("utt_id", "speaker_id", "language", "emotion") if name in dataset.schema.names]
    hashes: list[np.ndarray] = []
    speakers: set[str] = set()
    languages: set[str] = set()
    unnamed = "language" not in columns
    emotions: set[str] = set()
    rows = missing = 0
    for batch in read_batches(dataset, columns, index):
        rows += len(batch)
        known = has_ids(batch)
        batch = batch.filter(known)
        missing += len(known) - len(batch)
        hashes.append(_hash_ids(batch["utt_id"]))
        speakers |= set(pc.unique(batch["speaker_id"]).to_pylist())
        if "language" in columns:
            named = {(value or "").strip() for value in pc.unique(batch["language"].cast(pa.string())).to_pylist()}
            languages |= named - {""}
            unnamed = unnamed or "" in named
        if "emotion" in columns:
            labels = pc.unique(batch["emotion"].cast(pa.string())).to_pylist()
            emotions |= {emotion for label in labels if (emotion := canonical(label or "")) is not None}
    if rows == 0:
        raise InputError(f"{index} has no rows")
    all_hashes = np.concatenate(hashes)
    duplicates, duplicate_rows = _find_duplicates(dataset, all_hashes)
    return Survey(
        files=tuple(dataset.files),
        folder=folder,
        schema=dataset.schema,
        rows=rows,
        speakers=len(speakers),
        languages=tuple(sorted(languages)),
        unnamed_language=unnamed,
        emotions=tuple(sorted(emotions)),
        digest=hashlib.sha256(np.sort(all_hashes).tobytes()).hexdigest(),
        duplicate_ids=duplicates,
        duplicate_rows=duplicate_rows,
        missing_id_rows=missing,
    )


def with_all_columns(dataset: pds.Dataset, index: str) -> pds.Dataset:
    """Return a dataset of several files with the columns of all of them; a column may be empty or missing in some.

    Raises InputError for a file that lacks a required column, or has another type of a column than those before it.
    """
    kinds: dict[str, pa.DataType] = {}
    for fragment in dataset.get_fragments():
        check_columns(fragment.physical_schema, fragment.path)
        for field in fragment.physical_schema:
            known = kinds.get(field.name, pa.null())
            if pa.types.is_null(known):
                kinds[field.name] = field.type
            elif field.type != known and not pa.types.is_null(field.type):
                raise InputError(
                    f"the files of {index} disagree: the column {field.name} is {field.type} in {fragment.path} and "
                    f"{known} before it; cast one of them"
                )
    return dataset.replace_schema(pa.schema(list(kinds.items())))


def read_batches(dataset: pds.Dataset, columns: list[str], index: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of some columns. Raises InputError where a file cannot be read to its end."""
    try:
        yield from dataset.to_batches(columns=columns)
    except (pa.ArrowInvalid, OSError) as fault:
        raise InputError(f"{without_secrets(index)} is damaged: {str(fault).splitlines()[0][:120]}") from None


def check_output_apart(job: Job) -> None:
    """Raise InputError where the output lies in a folder that is an index: its tables would be read as part of it."""
    for index in (job.index, job.attacker_corpus):
        folder = Path(index or "")
        if index is not None and folder.is_dir() and job.output.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"the output {job.output} lies inside the index {index}, of which every Parquet file is read; choose "
                "another --output"
            )


def check_columns_wanted(job: Job, survey: Survey) -> None:
    """Raise InputError for a column that the job names and that cannot be carried."""
    for name in (*job.keep_columns, *(job.subgroups or ())):
        if name in RESERVED_COLUMNS:
            raise InputError(f"the column {name} cannot be kept or grouped by: voxveil uses that name; rename it")
        kind = survey.schema.field(name).type
        if not survives_as_text(kind):
            raise InputError(f"the column {name} is {kind}; only plain values can be kept or grouped by: cast it")
    for name in job.subgroups or ():
        if "." in name or name in ("utt_id", "speaker_id", "text"):
            raise InputError(f"the column {name} cannot form subgroups; name one like gender or language")


def _find_duplicates(dataset: pds.Dataset, hashes: np.ndarray) -> tuple[frozenset[str], int]:
    """Return the ids that several rows carry, and how many rows that is; the ids are read again where there are any."""
    values, counts = np.unique(hashes, return_counts=True)
    repeated = values[counts > 1]
    if len(repeated) == 0:
        return frozenset(), 0
    seen: Counter[str] = Counter()
    for batch in dataset.to_batches(columns=["utt_id", "speaker_id"]):
        ids = batch.filter(has_ids(batch))["utt_id"]
        seen.update(np.array(ids.to_pylist(), dtype=object)[np.isin(_hash_ids(ids), repeated)])
    twice = {name: count for name, count in seen.items() if count > 1}
    return frozenset(twice), sum(twice.values())


def _hash_ids(ids: pa.Array) -> np.ndarray:
    """Return 64-bit hashes [n] of ids: eight bytes a row are all that a large index keeps in memory."""
    return np.fromiter(
        (int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in ids.to_pylist()),
        dtype=np.uint64,
        count=len(ids),
    )


def check_first_rows(job: Job, survey: Survey, rows: int = 8) -> list[str]:
    """Decode and screen the first rows; return what is wrong with them, a phrase a row."""
    from operators.decode import Decode
    from operators.schema import QUARANTINE_REASONS
    from operators.screen import Screen

    table = open_index(job.index)[0].head(rows, columns=["utt_id", "audio"])  # decoded here, in this process
    batch = {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}
    decoded = Screen(job.sample_rate, job.min_seconds)(Decode(survey.folder, job.sample_rate, job.max_seconds)(batch))
    return [f"row {n}: {QUARANTINE_REASONS[reason]}" for n, reason in enumerate(decoded["reason"], 1) if reason]
