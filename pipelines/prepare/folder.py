"""Any folder of audio with a table of its utterances: a CSV (or, by its suffix, a tab-separated TSV).

The table's columns name `utt_id`, `speaker_id` and `path` (relative to the folder); every other column goes into the
index as text, with `emotion` and `gender` in the spelling that the auditors use.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from operators.schema import InputError
from pipelines.prepare.index import (
    PreparedIndex,
    Utterance,
    canonical_emotion,
    canonical_gender,
    locate_audio,
    require_folder,
    write_index,
)

REQUIRED = ("utt_id", "speaker_id", "path")
CANONICAL = {"emotion": canonical_emotion, "gender": canonical_gender}


def prepare_folder(
    source: Path, output: Path, embed: bool, table: str = "metadata.csv", columns: Mapping[str, str] | None = None
) -> PreparedIndex:
    """Index the audio that `source/table` lists; `columns` maps our names to the table's where those differ.

    `columns={"speaker_id": "client_id", "text": "sentence"}` reads two columns under other names. Raises InputError as
    `write_index` does, and for a table that is missing, empty, not UTF-8 or lacks a column, or whose paths lead nowhere
    or out of the folder.
    """
    root = require_folder(source)
    path = root / table
    header = _read_header(path, columns or {})
    labels = [name for name in header if name not in REQUIRED]
    if "audio" in labels:
        raise InputError(f"{path}: a column named audio would hide the audio itself; rename it or map it to path")
    rows, speakers, embedded = write_index(_utterances(path, root, header), root, output, labels, embed)
    return PreparedIndex(output, rows, speakers, embedded, ())


def _read_header(path: Path, columns: Mapping[str, str]) -> list[str]:
    """The table's columns by our names, in its order."""
    header = next(_read_rows(path), None)
    if header is None:
        raise InputError(f"{path}: the table is empty; its first line names the columns: {', '.join(REQUIRED)}, …")
    found = [name.strip() for name in header[1]]
    if len(found) == 1 and (";" in found[0] or "\t" in found[0]):
        raise InputError(f"{path}: its columns are not separated by commas; save it with commas, or with tabs as .tsv")
    for theirs in columns.values():
        if theirs not in found:
            raise InputError(f"{path}: no column {theirs!r} to map; it has {', '.join(found)}")
    ours = {theirs: name for name, theirs in columns.items()}
    names = [ours.get(name, name) for name in found]
    for name in REQUIRED:
        if name not in names:
            raise InputError(
                f"{path}: column {name} is missing; it has {', '.join(found)}. Rename one, or map it: "
                f"--column {name}=COLUMN"
            )
    repeated = {name or "(no name)" for name in names if not name or names.count(name) > 1}
    if repeated:
        raise InputError(f"{path}: column {', '.join(sorted(repeated))} is there twice; name each column once")
    return names


def _utterances(path: Path, root: Path, header: list[str]) -> Iterator[Utterance]:
    rows = _read_rows(path)
    next(rows)
    empty = True
    for line, values in rows:
        empty = False
        origin = f"{path.name}, line {line}"
        if len(values) != len(header):
            raise InputError(
                f"{origin}: {len(values)} fields, but {len(header)} columns; quote fields with a separator"
            )
        row = {name: value.strip() for name, value in zip(header, values, strict=True)}
        if not row["path"]:
            raise InputError(f"{origin} (utt_id {row['utt_id']!r}): path is empty; name the audio file")
        labels = {
            name: CANONICAL.get(name, str)(value) if value else None
            for name, value in row.items()
            if name not in REQUIRED
        }
        audio = locate_audio(root, row["path"], f"{origin} (utt_id {row['utt_id']!r})")
        yield Utterance(row["utt_id"], row["speaker_id"], audio, labels, origin)
    if empty:
        raise InputError(f"{path}: the table has a header and no rows; add one row for each utterance")


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not blank."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for values in reader:
                if values:
                    yield reader.line_num, values
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such table; write one, or name it with --table") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save the table as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not a CSV line ({error}); quote the field") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
