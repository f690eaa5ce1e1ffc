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

import fcntl
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from governance.lineage import without_secrets
from operators.keys import derive_key
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
    world: dict[str, str]
    done: dict[str, Any]
    lock: IO[str]

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
        self.save()

    def close(self) -> None:
        """End the run: its work tables and its own key are deleted; what is staged and reported stays."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.finish_step("closed")  # before the key goes: an unfinished run always has the key that it started with
        (self.folder / "key").unlink(missing_ok=True)

    def save(self) -> None:
        """Write `state.json`, whole or not at all, and to the disk."""
        state = {"kind": self.kind, "job": _comparable(self.job), "world": self.world, "done": self.done}
        temporary = self.folder / ".state.json"
        with temporary.open("w") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / "state.json")


def start_run(job: Job, kind: str, world: dict[str, str], resume: bool) -> Run:
    """Return a new run, or with `resume` the newest unfinished one of the same job. Raises InputError.

    `world` names, by digest, what the job works on besides its configuration (the index, the policy); a run is only
    resumed in the world that it was started in, and with the key that it was started with. The run is locked as long
    as this process lives.
    """
    runs = job.folder() / "runs"
    if resume:
        return _resume(job, kind, world, runs)
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
    run = Run(folder, kind, job, key, ephemeral, world | {"key": _key_mark(key)}, {}, lock_run(folder))
    run.save()
    return run


def find_unfinished(job: Job, kind: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder and the state of the newest unfinished run of a job, or None."""
    for folder in sorted((job.folder() / "runs").glob("*/"), reverse=True):
        try:
            state = json.loads((folder / "state.json").read_text())
        except (OSError, ValueError):
            continue
        if state["kind"] == kind and "closed" not in state["done"] and state["job"] == _comparable(job):
            return folder, state
    return None


def _resume(job: Job, kind: str, world: dict[str, str], runs: Path) -> Run:
    found = find_unfinished(job, kind)
    if found is None:
        raise InputError(f"there is no unfinished {kind} of this job under {runs}; run it without --resume")
    folder, state = found
    stored = folder / "key"
    key = bytes.fromhex(stored.read_text()) if stored.exists() else job_key(job)
    if key is None:
        raise InputError(f"the run {folder.name} was started with the key in {job.key_env}; set it again to resume")
    now = world | {"key": _key_mark(key)}
    changed = [name for name, digest in state["world"].items() if now.get(name) != digest]
    if changed:
        raise InputError(
            f"the run {folder.name} cannot be resumed: the {' and the '.join(changed)} changed since; "
            "run it without --resume"
        )
    return Run(folder, kind, job, key, stored.exists(), now, state["done"], lock_run(folder))


def _comparable(job: Job) -> dict[str, Any]:
    """Return what makes two jobs the same: all but where it runs and on how many workers, and never a credential."""
    fields = job.model_dump(mode="json", exclude={"output", "workers", "gpus", "compile"})
    return fields | {"index": without_secrets(job.index)}


def _key_mark(key: bytes) -> str:
    """Return a mark by which a key is known again and that says nothing of it."""
    return derive_key(key, "mark").hex()


def lock_run(folder: Path) -> IO[str]:
    """Lock a run for this process. Raises InputError where another one works on it."""
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InputError(f"another process is working on the run {folder.name}; wait for it to end") from None
    return lock
