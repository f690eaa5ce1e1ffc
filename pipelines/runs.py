"""A run's private folder: what was done, what is staged, and the key while the run still needs it.

<output>/<name>/runs/<run id>/     0700
    state.json                      the job, and which steps are finished
    key                             0600, only while the run is unfinished and its key is its own
    work/                           tables with source ids, transcripts and embeddings; deleted when the run ends
    staged/                         what would be released
    quarantine.parquet              the rows that could not be used, each with its reason
    report.html, report.json
<output>/<name>/released/          only after the decision `release`
"""

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from operators.schema import InputError
from pipelines.config import Job, ephemeral_key, job_key


@dataclass
class Run:
    """One execution of a job; steps that finished are skipped when it is resumed."""

    folder: Path
    kind: str
    job: Job
    key: bytes
    key_is_ephemeral: bool
    done: dict[str, Any]

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def staged(self) -> Path:
        return self.folder / "staged"

    @property
    def report(self) -> Path:
        return self.folder / "report"

    @property
    def quarantine(self) -> Path:
        return self.folder / "quarantine.parquet"

    def parts(self, name: str) -> Path:
        """Return the folder of a step's Parquet parts, made where it is missing."""
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def finish_step(self, name: str, result: Any = True) -> None:
        """Record that a step is done, with its (JSON) result."""
        self.done[name] = result
        self._save()

    def close(self) -> None:
        """End the run: its work tables and its own key are deleted; what is staged and reported stays."""
        shutil.rmtree(self.work, ignore_errors=True)
        (self.folder / "key").unlink(missing_ok=True)
        self.finish_step("closed")

    def _save(self) -> None:
        state = {"kind": self.kind, "job": self.job.model_dump(mode="json"), "done": self.done}
        temporary = self.folder / ".state.json"
        temporary.write_text(json.dumps(state, indent=1))
        os.replace(temporary, self.folder / "state.json")


def start_run(job: Job, kind: str, resume: bool) -> Run:
    """Return a new run, or with `resume` the newest unfinished one of the same job. Raises InputError.

    An index named relative to where the command runs is kept absolute, so that a run can be resumed from anywhere.
    """
    runs = job.folder() / "runs"
    if resume:
        return _resume(job, kind, runs)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        folder = runs / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(mode=0o700)
    except OSError as fault:
        raise InputError(f"cannot write to {job.output}: {fault.strerror}; choose another --output") from None
    key = job_key(job)
    ephemeral = key is None
    if key is None:
        key = ephemeral_key()
        descriptor = os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex())
    run = Run(folder, kind, job, key, ephemeral, {})
    run._save()
    return run


def _resume(job: Job, kind: str, runs: Path) -> Run:
    wanted = job.model_dump(mode="json")
    for folder in sorted(runs.glob("*/"), reverse=True):
        try:
            state = json.loads((folder / "state.json").read_text())
        except (OSError, ValueError):
            continue
        if state["kind"] != kind or "closed" in state["done"] or state["job"] != wanted:
            continue
        stored = folder / "key"
        key = bytes.fromhex(stored.read_text()) if stored.exists() else job_key(job)
        if key is None:
            raise InputError(f"the run {folder.name} was started with the key in {job.key_env}; set it again to resume")
        return Run(folder, kind, job, key, stored.exists(), state["done"])
    raise InputError(f"there is no unfinished {kind} of this job under {runs}; run it without --resume")
