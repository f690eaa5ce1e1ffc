"""Write a corpus index: one Parquet file in the data contract of `operators.schema`, from a stream of utterances.

It knows no corpus: the modules beside it find the utterances, this one checks their ids and paths, points at their
audio or embeds it, and writes row group by row group, so that memory does not grow with the corpus. The samples are not
decoded: whether an utterance can be used is for the job that reads the index to say.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from operators.schema import AUDIO_TYPE, InputError

ROW_GROUP_ROWS = 1_000
ROW_GROUP_BYTES = 32 * 2**20  # of embedded audio; what the writer holds at once
MAX_AUDIO_BYTES = 2**31 - 1  # an Arrow binary array counts its bytes in 32 bits

EMOTIONS = {
    "anger": "angry",
    "angry": "angry",
    "happiness": "happy",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "sadness": "sad",
}
GENDERS = {"f": "f", "female": "f", "m": "m", "male": "m"}


@dataclass(frozen=True)
class Utterance:
    """One row to be written: `audio` is a file on disk, `labels` its other columns, None where unknown.

    `origin` says where the row was found ("metadata.csv, line 7"), for the error that it may cause.
    """

    utt_id: str
    speaker_id: str
    audio: Path
    labels: Mapping[str, str | None]
    origin: str


@dataclass(frozen=True)
class PreparedIndex:
    """What was written: the index, its rows and speakers, whether it holds the audio itself, and what was left out.

    `skipped` has one line for each file or transcript that was found and not indexed, with the reason.
    """

    path: Path
    rows: int
    speakers: int
    embedded: bool
    skipped: tuple[str, ...]


def canonical_emotion(label: str) -> str:
    """The name that the emotion recogniser uses (neutral, happy, sad, angry); a label of any other emotion as it is."""
    return EMOTIONS.get(label.strip().lower(), label.strip())


def canonical_gender(label: str) -> str:
    """`f` or `m` for the usual spellings of the two; any other label as it is."""
    return GENDERS.get(label.strip().lower(), label.strip())


def require_folder(source: Path) -> Path:
    """`source`, absolute and without links; raises InputError when it is no folder."""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name the folder that holds the corpus")
    return source.resolve()


def locate_audio(root: Path, relative: str, origin: str) -> Path:
    """The audio file that `relative` names under `root`; raises InputError when it is missing or outside `root`."""
    try:
        audio = (root / relative).resolve()
        inside, found = audio.is_relative_to(root), audio.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a name too long, links that go in a circle
        raise InputError(f"{origin}: {relative!r} is not a path ({error}); correct it") from error
    if not inside:
        raise InputError(
            f"{origin}: {relative!r} leaves the folder {root}; copy the audio into it and name it from there"
        )
    if not found:
        raise InputError(f"{origin}: no audio file at {audio}; restore the file or remove the row")
    return audio


def write_index(
    utterances: Iterable[Utterance], root: Path, output: Path, labels: Sequence[str], embed: bool
) -> tuple[int, int, bool]:
    """Write `utterances`, whose audio lies under `root`, to the Parquet file `output`; return rows, speakers, embedded.

    An index can point only at audio in or below its own folder. Where `root` lies elsewhere the audio is embedded
    whatever `embed` says. The file appears whole or not at all. Raises InputError for a repeated or empty `utt_id`, an
    empty `speaker_id`, no utterance at all, or an output that cannot be written.
    """
    folder = output.parent.resolve()
    embedded = embed or not root.is_relative_to(folder)
    required = [("utt_id", pa.string()), ("speaker_id", pa.string()), ("audio", AUDIO_TYPE)]
    schema = pa.schema([*required, *((label, pa.string()) for label in labels)])
    if output.suffix != ".parquet" or output.is_dir():
        example = output / "index.parquet" if output.is_dir() else output.with_suffix(".parquet")
        raise InputError(f"{output}: an index is one Parquet file; name it so, for example {example}")
    partial = folder / f".{output.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); choose another output") from error
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            rows, speakers = _write_rows(writer, schema, utterances, folder, embedded)
        if not rows:
            raise InputError(f"{root}: no utterances found; is this the folder of the corpus?")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return rows, speakers, embedded


def _write_rows(
    writer: pq.ParquetWriter, schema: pa.Schema, utterances: Iterable[Utterance], folder: Path, embedded: bool
) -> tuple[int, int]:
    """Stream the rows through `writer`, a bounded row group at a time; return the numbers of rows and of speakers."""
    utt_ids: set[str] = set()
    speakers: set[str] = set()
    group: list[dict[str, object]] = []
    group_bytes = 0
    for utterance in utterances:
        _check_ids(utterance, utt_ids)
        utt_ids.add(utterance.utt_id)
        speakers.add(utterance.speaker_id)
        content = _read_audio(utterance) if embedded else None
        path = None if embedded else utterance.audio.relative_to(folder).as_posix()
        audio = {"bytes": content, "path": path}
        size = len(content) if content else 0
        if group and (len(group) == ROW_GROUP_ROWS or group_bytes + size > ROW_GROUP_BYTES):
            writer.write_table(pa.Table.from_pylist(group, schema))
            group, group_bytes = [], 0
        group.append(
            {"utt_id": utterance.utt_id, "speaker_id": utterance.speaker_id, "audio": audio, **utterance.labels}
        )
        group_bytes += size
    if group:
        writer.write_table(pa.Table.from_pylist(group, schema))
    return len(utt_ids), len(speakers)


def _check_ids(utterance: Utterance, seen: set[str]) -> None:
    for column, value in (("utt_id", utterance.utt_id), ("speaker_id", utterance.speaker_id)):
        if not value:
            raise InputError(f"{utterance.origin}: {column} is empty; every row needs one")
    if utterance.utt_id in seen:
        raise InputError(f"{utterance.origin}: utt_id {utterance.utt_id!r} is there twice; give each row its own")


def _read_audio(utterance: Utterance) -> bytes:
    """The file as it is, tags included: the jobs decode it, and nothing but samples leaves them."""
    try:
        if utterance.audio.stat().st_size > MAX_AUDIO_BYTES:
            raise InputError(f"{utterance.origin}: {utterance.audio} has more than 2 GiB; cut it into utterances")
        return utterance.audio.read_bytes()
    except OSError as error:
        raise InputError(f"{utterance.origin}: {utterance.audio} cannot be read ({error.strerror})") from error
