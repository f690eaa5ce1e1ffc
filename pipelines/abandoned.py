"""Abandoned runs: those that were cut and that nobody resumed. Each keeps its key and its private tables (source ids,
transcripts, embeddings) until it is resumed or removed.
"""

import json
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from operators.schema import InputError
from pipelines.runs import lock_run

RUN_NAME = re.compile(r"(\d{8}-\d{6})-[0-9a-f]{6}")


@dataclass(frozen=True)
class Abandoned:
    """An unfinished run that no process works on, when it was started, and how many bytes it holds."""

    folder: Path
    started: datetime
    size: int


def find_abandoned(output: Path) -> list[Abandoned]:
    """Return the abandoned runs of an output folder, or of one dataset's folder in it, oldest first. Raises InputError
    where there is no such folder."""
    if not output.is_dir():
        raise InputError(f"there is no folder {output}; name that of --output, or a dataset's in it")
    found = []
    for folder in sorted([*output.glob("runs/*"), *output.glob("*/runs/*")], key=lambda folder: folder.name):
        name = RUN_NAME.fullmatch(folder.name)
        if name is None or folder.is_symlink() or not folder.is_dir() or is_closed(folder):
            continue
        try:
            lock_run(folder).close()
        except InputError:
            continue  # somebody is working on it
        started = datetime.strptime(name[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
        size = sum(path.lstat().st_size for path in folder.rglob("*"))
        found.append(Abandoned(folder, started, size))
    return found


def is_closed(folder: Path) -> bool:
    """Say whether a run ended by itself. One that was cut before it could write its state did not."""
    try:
        return "closed" in json.loads((folder / "state.json").read_text())["done"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True  # not one of ours, or not readable: leave it alone


def remove_run(run: Abandoned) -> None:
    """Delete an abandoned run with all that it holds. Raises InputError where a process has taken it up meanwhile."""
    with lock_run(run.folder):
        shutil.rmtree(run.folder)
