"""A training's folder: what it trains is written down first, so that nothing else is resumed from it."""

import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.schema import InputError
from pipelines.training.checkpoints import newest_step

DESCRIPTION = "training.json"


def training_digest(description: dict[str, Any]) -> str:
    """Return the digest of all that makes a training what it is."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Begun:
    """A training by an id of its own, and the step that it goes on from."""

    training_id: str
    step: int


def begin(folder: Path, description: dict[str, Any], resume: bool, command: str) -> Begun:
    """Make the folder ready for a training.

    Raises InputError where there is a training already and it is not to be resumed, where there is none to resume, or
    where it was of something else.
    """
    path = folder / DESCRIPTION
    if not resume:
        if path.exists():
            raise InputError(f"{folder} holds a training: --resume goes on with it; delete the folder to begin anew")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        training_id = uuid.uuid4().hex
        partial = folder / f".{DESCRIPTION}"
        document = {"id": training_id, "description": description}
        partial.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        os.replace(partial, path)
        return Begun(training_id, 0)
    if not path.exists():
        raise InputError(f"there is no training in {folder} to resume: run `{command}` without --resume")
    document = json.loads(path.read_text())
    former, now = document["description"], json.loads(json.dumps(description))
    changed = sorted(key for key in {**former, **now} if former.get(key) != now.get(key))
    if changed:
        raise InputError(
            f"the training in {folder} cannot be resumed: {' and '.join(changed)} changed since; "
            "delete the folder to begin anew"
        )
    return Begun(document["id"], newest_step(folder))


def training_id(folder: Path, command: str) -> str:
    """Return the id of the training in a folder. Raises InputError where there is none."""
    path = folder / DESCRIPTION
    if not path.exists():
        raise InputError(f"there is no training in {folder}: run `{command}` first")
    return str(json.loads(path.read_text())["id"])
