"""From the private folder, where a job stages its result, to the released folder, by one rename.

Until the rename nothing is at the target; after it everything is. A crash in between loses nothing: the staged folder
is whole and `publish` can be called again.
"""

import errno
import os
import stat
import tempfile
from pathlib import Path

from governance.manifest import MANIFEST, Manifest, ManifestError, build_manifest, read_manifest
from governance.report import Report

PART = f".{MANIFEST}.part"


class PublishError(RuntimeError):
    """Nothing was released; the message is one line that says why and what to do."""


def make_private(folder: Path) -> Path:
    """Make a folder that only its owner can enter (0700); its parents are made where they are missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise PublishError(f"{folder}: cannot make the private folder: {error.strerror}") from None
    return folder


def check_target(target: Path) -> None:
    """Refuse a target that could not be released to, before any work is done.

    Raises PublishError when it is a file, a link or a folder with something in it, or cannot be written to.
    """
    _refuse_occupied(target)
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise PublishError(f"{target}: cannot be made, because {parent} is not a folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".voxveil-", dir=parent):
            pass  # asking the file system is the one sure way: permission bits know nothing of read-only mounts or root
    except OSError as error:
        raise PublishError(f"{target}: cannot be written: {error.strerror}; choose another --output") from None


def publish(staged: Path, target: Path, report: Report, mlflow_run_id: str | None) -> Manifest:
    """Write the manifest of `staged` and rename it to `target`; both lie on one file system.

    Safe to call again after a crash: a target that this very job released already is left as it is. Raises
    PublishError, and leaves `staged` as it was (a manifest may have been added) and the target absent, when the
    decision is not `release`, when there is no MLflow run, and when the target is occupied or cannot be reached.
    """
    if report.decision != "release":
        raise PublishError(f"{target}: not released, because the decision is “{report.decision}”")
    if not mlflow_run_id:
        raise PublishError(f"{target}: not released, because there is no MLflow record of the decision")
    if not staged.exists() and (done := _released_before(target, report.lineage.job_id)):
        return done
    if not staged.is_dir():
        raise PublishError(f"{staged}: there is no staged folder to release")
    _refuse_occupied(target)
    try:
        (staged / PART).unlink(missing_ok=True)  # what a crash may have left
        manifest = build_manifest(staged, report, mlflow_run_id)
        if not manifest.files:
            raise PublishError(f"{staged}: the staged folder is empty")
        _write_durably(staged / MANIFEST, manifest.to_json())
        _open_to_readers(staged)
        _flush(staged)
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        os.rename(staged, target)
        _flush_entry(target.absolute().parent)
    except ManifestError as error:
        raise PublishError(f"{staged}: {error}") from None
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise PublishError(
                f"{target}: lies on another file system than {staged}; stage beside the target"
            ) from None
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise PublishError(
                f"{target}: something was put there while the job ran; nothing was overwritten"
            ) from None
        raise PublishError(f"{target}: cannot be released: {error.strerror}") from None
    return manifest


def _refuse_occupied(target: Path) -> None:
    if target.is_symlink():
        raise PublishError(f"{target}: is a link; name the folder itself")
    try:
        if target.is_dir():
            if any(target.iterdir()):
                raise PublishError(f"{target}: exists and is not empty; choose another --output or move it away")
        elif target.exists():
            raise PublishError(f"{target}: exists and is not a folder")
    except OSError as error:
        raise PublishError(f"{target}: cannot be looked into: {error.strerror}") from None


def _released_before(target: Path, job_id: str) -> Manifest | None:
    try:
        manifest = read_manifest(target)
    except ManifestError:
        return None
    return manifest if manifest.job_id == job_id else None


def _write_durably(path: Path, text: str) -> None:
    """Replace a file as a whole, so that a crash leaves the old one or the new one."""
    part = path.with_name(PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _open_to_readers(folder: Path) -> None:
    """Give what is released the permissions that the umask grants any new file; staging kept them to the owner."""
    probe = folder / ".umask"
    probe.mkdir()  # the one way to read the umask that no other thread can be hurt by
    granted = stat.S_IMODE(probe.stat().st_mode)
    probe.rmdir()
    for root, _, files in os.walk(folder):
        os.chmod(root, granted)
        for name in files:
            os.chmod(Path(root, name), granted & 0o666)


def _flush(folder: Path) -> None:
    """Force files and folders to the disk, so that a rename that survives a power cut does not outlive its content."""
    for root, _, files in os.walk(folder):
        for name in files:
            _flush_entry(Path(root, name))
        _flush_entry(Path(root))


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
