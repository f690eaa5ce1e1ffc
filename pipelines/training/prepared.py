"""Prepared speech: what a training reads, computed once by a Ray Data job and kept as Parquet, private.

<folder>/prepared.json     what it was made of; another preparation of the same goes on, one of other things is refused
<folder>/parts/            a row an utterance, a row group a row, so that any row is read without the others
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pds

from operators.decode import Decode
from operators.schema import QUARANTINE_REASONS, InputError
from operators.screen import Screen
from operators.select import Select, has_ids
from operators.write import WriteParts
from pipelines.cluster import run_pass
from pipelines.reading import finished_ids, read_view
from pipelines.survey import Survey, open_index, read_batches

if TYPE_CHECKING:
    from operators.chain import Step
    from pipelines.progress import Track

FORMAT = "voxveil-prepared-1"
VIEW = "prepared"
CARRIED = ("utt_id", "speaker_id", "emotion", "text")
DESCRIPTION = "prepared.json"


@dataclass(frozen=True)
class Recipe:
    """What prepared speech is made of, by digest; two preparations of one recipe hold the same rows."""

    corpus: str
    model: str
    teacher: str
    sample_rate: int
    frame_rate: float
    min_seconds: float
    max_seconds: float


@dataclass(frozen=True)
class Prepared:
    """A finished preparation: its rows, the reasons of those that were set aside, and the fingerprint of the corpus."""

    folder: Path
    recipe: Recipe
    rows: int
    fingerprint: str
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    def told(self) -> str:
        """Return one line for people."""
        aside = "; ".join(f"{count} left out: {QUARANTINE_REASONS[reason]}" for reason, count in self.reasons.items())
        return f"{self.rows} utterances are prepared{'; ' + aside if aside else ''}"


def schema_of(columns: dict[str, pa.DataType]) -> pa.Schema:
    """Return the schema of parts with these columns besides those that are carried along."""
    said = [("audio_digest", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
    carried = [(name, pa.string()) for name in ("view", *CARRIED)]
    return pa.schema([*carried, *columns.items(), *said])


def prepare(
    folder: Path,
    recipe: Recipe,
    survey: Survey,
    only: frozenset[str] | None,
    steps: "list[Step]",
    columns: dict[str, pa.DataType],
    workers: int | None,
    gpus: float,
    track: "Track",
) -> Prepared:
    """Fill `folder` with the rows of an index after `steps`, which follow decoding and screening, and return it.

    `only` are the ids that are wanted (None: all). Goes on where a former try was cut. Raises InputError where the
    folder holds speech of another recipe, or nothing could be used.
    """
    described = folder / DESCRIPTION
    if (former := read_recipe(folder)) is not None and former != recipe:
        raise InputError(f"{folder} was prepared from {_difference(former, recipe)}; delete it, or use another name")
    parts = folder / "parts"
    parts.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.parent.chmod(0o700)  # `parents` heeds no mode, and what is computed of speech will lie there too
    folder.chmod(0o700)
    if former is None:
        _write(described, {"format": FORMAT, "recipe": asdict(recipe)})
    wanted = survey.usable_rows if only is None else len(only)
    finished = finished_ids(parts, VIEW)
    track.begin("prepare", wanted, len(finished))
    if len(finished) < wanted:
        select = Select(VIEW, (*CARRIED, "audio"), finished | survey.duplicate_ids, only)
        every: list[Step] = [
            (
                Decode,
                {"folder": survey.folder, "sample_rate": recipe.sample_rate, "max_seconds": recipe.max_seconds},
            ),
            (Screen, {"sample_rate": recipe.sample_rate, "min_seconds": recipe.min_seconds}),
            *steps,
            (WriteParts, {"folder": str(parts.absolute()), "schema": schema_of(columns), "rows_per_group": 1}),
        ]
        view = read_view(survey.folder, survey.files, select, survey.schema)
        run_pass(view, wanted - len(finished), every, workers, gpus, track, "prepare")
    table = pds.dataset(parts, format="parquet").to_table(columns=["utt_id", "audio_digest", "reason"])
    unique = {row["utt_id"]: row for row in table.to_pylist()}.values()
    reasons = dict(sorted(Counter(row["reason"] for row in unique if row["reason"]).items()))
    usable = [row for row in unique if not row["reason"]]
    if not usable:
        named = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise InputError(f"none of the {len(unique)} utterances can be used ({named})")
    prepared = Prepared(folder, recipe, len(usable), fingerprint_of(usable), reasons)
    document = {"rows": prepared.rows, "fingerprint": prepared.fingerprint, "reasons": reasons}
    _write(described, {"format": FORMAT, "recipe": asdict(recipe), **document})
    return prepared


def corpus_digest(index: str, survey: Survey) -> str:
    """Return the digest of the ids of an index and of what is carried of each, whatever the order of its rows.

    A corrected label makes another corpus. Audio is not read here: it is in the fingerprint of what was prepared.
    """
    names = [name for name in CARRIED if name in survey.schema.names]
    lines: list[bytes] = []
    for batch in read_batches(open_index(index)[0], names, index):
        for row in batch.filter(has_ids(batch)).to_pylist():
            told = json.dumps([str(row[name] or "") for name in names])
            lines.append(hashlib.sha256(told.encode()).digest())
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()


def fingerprint_of(rows: list[dict[str, str]]) -> str:
    """Return the digest of every id and encoded audio, whatever the order of the rows."""
    lines = sorted(f"{row['utt_id']}\t{row['audio_digest']}" for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_recipe(folder: Path) -> Recipe | None:
    """Return what a folder was prepared from, None where it was not."""
    path = folder / DESCRIPTION
    return Recipe(**json.loads(path.read_text())["recipe"]) if path.exists() else None


def read_prepared(folder: Path, command: str) -> Prepared:
    """Return a finished preparation. Raises InputError that names the `command` which makes one."""
    path = folder / DESCRIPTION
    document = json.loads(path.read_text()) if path.exists() else {}
    if "fingerprint" not in document:
        raise InputError(f"{folder} is not prepared{' to its end' if document else ''}: run {command}")
    return Prepared(
        folder, Recipe(**document["recipe"]), document["rows"], document["fingerprint"], document["reasons"]
    )


def _difference(former: Recipe, now: Recipe) -> str:
    changed = [name for name, value in asdict(former).items() if asdict(now)[name] != value]
    told = {
        "corpus": "other recordings or labels",
        "model": "another model or other recordings of --heard",
        "teacher": "another teacher or other --alignments",
    }
    return " and ".join(told.get(name, f"another {name}") for name in changed)


def _write(path: Path, document: dict[str, object]) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, path)
