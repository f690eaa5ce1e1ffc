"""The manifest of a released folder: the digest of every file in it and of all that led to it.

`manifest.json` names every other file of the folder, so whoever receives the data can prove that it is what was
released. Files that will vouch for the manifest itself (a signature, say) belong into `BESIDE`.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from governance.decision import Outcome
from governance.lineage import AnonymizerUsed, Counts, ModelUsed
from governance.report import Report

MANIFEST = "manifest.json"
BESIDE = frozenset({MANIFEST})  # what the manifest cannot name, because it vouches for the manifest
SCHEMA_VERSION = "1.0"


class ManifestError(ValueError):
    """A folder cannot be described by a manifest; the message is one line."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Record):
    sha256: str
    size: int


class PolicyEntry(_Record):
    name: str
    version: str
    sha256: str


class Manifest(_Record):
    """What was released, how it was made, what was decided, and where the record of it lies.

    It repeats of the lineage what a receiver needs to know, and not where the source lay.
    """

    schema_version: str = SCHEMA_VERSION
    job_id: str
    dataset: str
    created: AwareDatetime
    decision: Outcome
    mlflow_run_id: str | None
    counts: Counts
    anonymizer: AnonymizerUsed
    auditors: tuple[ModelUsed, ...]
    voice_policy: Literal["utterance", "speaker"]
    key_policy: Literal["ephemeral", "environment"]
    profile: str
    policy: PolicyEntry
    code_version: str
    files: dict[str, FileEntry]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def build_manifest(folder: Path, report: Report, mlflow_run_id: str | None) -> Manifest:
    """Describe every file under `folder`. Raises ManifestError for links and special files."""
    lineage = report.lineage
    return Manifest(
        job_id=lineage.job_id,
        dataset=lineage.dataset,
        created=lineage.created,
        decision=report.decision,
        mlflow_run_id=mlflow_run_id,
        counts=lineage.counts,
        anonymizer=lineage.anonymizer,
        auditors=lineage.auditors,
        voice_policy=lineage.voice_policy,
        key_policy=lineage.key_policy,
        profile=lineage.profile,
        policy=PolicyEntry(name=report.policy.name, version=report.policy.version, sha256=report.policy.sha256),
        code_version=lineage.code_version,
        files={name: describe_file(folder / name) for name in sorted(_files(folder))},
    )


def describe_file(path: Path) -> FileEntry:
    """Return the size in bytes and the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=os.fstat(file.fileno()).st_size)


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`. Raises ManifestError, one line, where there is none or it is not one."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ManifestError(f"{folder / MANIFEST}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(
            f"{folder / MANIFEST}: not a manifest: {where + ': ' if where else ''}{first['msg']}"
        ) from None


def verify_manifest(folder: Path) -> list[str]:
    """Compare a folder with its manifest; return what does not agree as sentences, an empty list when all does."""
    try:
        manifest = read_manifest(folder)
        present = set(_files(folder))
    except ManifestError as error:
        return [str(error)]
    problems = []
    for name, entry in manifest.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problems.append(f"{name!r}: the manifest names a file outside the folder")
        elif name not in present:
            problems.append(f"{name}: the file is missing")
        else:
            try:
                found = describe_file(folder / name)
            except OSError as error:
                problems.append(f"{name}: cannot be read: {error.strerror}")
                continue
            if found.size != entry.size:
                problems.append(f"{name}: {found.size} bytes long, {entry.size} in the manifest")
            elif found.sha256 != entry.sha256:
                problems.append(f"{name}: the content was changed")
    problems += [f"{name}: the file is not in the manifest" for name in sorted(present - manifest.files.keys())]
    return problems


def _files(folder: Path) -> Iterator[str]:
    """Yield the files under a folder by their relative POSIX path, the manifest's own excepted."""
    for root, folders, files in os.walk(folder):
        for entry in (*folders, *files):
            path = Path(root, entry)
            name = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise ManifestError(f"{name}: neither a file nor a folder (a link?)")
            if stat.S_ISREG(mode) and name not in BESIDE:
                yield name
