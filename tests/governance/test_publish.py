"""A released folder is whole, or it is not there."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from release_sample import ReportMaker

import governance.publish
from governance.manifest import ManifestError, build_manifest, read_manifest, verify_manifest
from governance.publish import PublishError, check_target, make_private, publish
from governance.report import Report


@pytest.fixture
def report(make_report: ReportMaker) -> Report:
    return make_report()[0]


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    folder = make_private(tmp_path / "private" / "job-1")
    (folder / "audio").mkdir()
    (folder / "index.parquet").write_bytes(b"PAR1")
    (folder / "audio" / "a.flac").write_bytes(b"fLaC" * 1000)
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_released_with_its_digest(staged: Path, tmp_path: Path, report: Report) -> None:
    target = tmp_path / "out" / "released"
    publish(staged, target, report, "run-1")
    assert names(target) == {"index.parquet", "audio/a.flac", "manifest.json"}
    assert not staged.exists()
    told = json.loads((target / "manifest.json").read_text())
    assert told["files"]["audio/a.flac"] == {
        "sha256": hashlib.sha256(b"fLaC" * 1000).hexdigest(),
        "size": 4000,
    }
    assert told["decision"] == "release"
    assert told["mlflow_run_id"] == "run-1"
    assert told["policy"]["sha256"] == report.policy.sha256
    assert told["auditors"][0]["digest"] == "4c" * 32
    assert told["counts"]["input"] == told["counts"]["released"] + told["counts"]["quarantined"]
    assert verify_manifest(target) == []


def test_where_the_source_lies_is_not_told_to_those_who_receive(staged: Path, tmp_path: Path, report: Report) -> None:
    publish(staged, tmp_path / "out", report, "run-1")
    assert "bucket" not in (tmp_path / "out" / "manifest.json").read_text()


def test_the_private_folder_is_private_and_the_released_is_not(staged: Path, tmp_path: Path, report: Report) -> None:
    assert stat.S_IMODE(staged.stat().st_mode) == 0o700
    (staged / "index.parquet").chmod(0o600)
    before = os.umask(0o022)
    try:
        publish(staged, tmp_path / "out", report, "run-1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out" / "index.parquet").stat().st_mode) == 0o644


@pytest.mark.parametrize("decision", ["review", "withhold"])
def test_only_the_decision_to_release_releases(decision: str, staged: Path, tmp_path: Path, report: Report) -> None:
    with pytest.raises(PublishError, match=f"not released, because the decision is “{decision}”"):
        publish(staged, tmp_path / "out", report.model_copy(update={"decision": decision}), "run-1")
    assert not (tmp_path / "out").exists()


def test_without_a_record_in_mlflow_nothing_is_released(staged: Path, tmp_path: Path, report: Report) -> None:
    with pytest.raises(PublishError, match="there is no MLflow record"):
        publish(staged, tmp_path / "out", report, None)
    assert names(staged) == {"index.parquet", "audio/a.flac"}


@pytest.mark.parametrize(
    "step",
    ["build_manifest", "_write_durably", "_open_to_readers", "_flush", "os.replace", "os.rename", "os.fsync"],
)
def test_a_crash_at_any_step_leaves_the_target_absent_and_can_be_taken_up_again(
    step: str, staged: Path, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    target = tmp_path / "out" / "released"
    with monkeypatch.context() as patch:
        patch.setattr(f"governance.publish.{step}", crash)
        with pytest.raises(Crash):
            publish(staged, target, report, "run-1")
    assert not target.exists()
    assert {"index.parquet", "audio/a.flac"} <= names(staged)
    publish(staged, target, report, "run-1")
    assert names(target) == {"index.parquet", "audio/a.flac", "manifest.json"}
    assert verify_manifest(target) == []


def test_a_crash_right_after_the_rename_is_recognised_as_done(staged: Path, tmp_path: Path, report: Report) -> None:
    manifest = publish(staged, tmp_path / "out", report, "run-1")
    assert publish(staged, tmp_path / "out", report, "run-1") == manifest


def test_a_released_folder_of_another_job_is_not_taken_for_this_one(
    staged: Path, tmp_path: Path, report: Report, make_report: ReportMaker
) -> None:
    publish(staged, tmp_path / "out", report, "run-1")
    with pytest.raises(PublishError, match="there is no staged folder to release"):
        publish(staged, tmp_path / "out", make_report(job_id="job-2")[0], "run-2")


def test_an_empty_folder_may_be_the_target_and_a_full_one_may_not(staged: Path, tmp_path: Path, report: Report) -> None:
    target = tmp_path / "out"
    target.mkdir()
    check_target(target)
    (target / "precious.txt").write_text("keep me")
    with pytest.raises(PublishError, match="exists and is not empty; choose another --output or move it away"):
        check_target(target)
    with pytest.raises(PublishError, match="exists and is not empty"):
        publish(staged, target, report, "run-1")
    assert names(target) == {"precious.txt"}
    (target / "precious.txt").unlink()
    publish(staged, target, report, "run-1")
    assert verify_manifest(target) == []


def test_what_is_put_at_the_target_in_the_last_moment_is_not_overwritten(
    staged: Path, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def meanwhile(folder: Path) -> None:
        target.mkdir()
        (target / "precious.txt").write_text("keep me")

    monkeypatch.setattr(governance.publish, "_flush", meanwhile)
    with pytest.raises(PublishError, match="something was put there while the job ran"):
        publish(staged, target, report, "run-1")
    assert names(target) == {"precious.txt"}


def test_a_target_that_cannot_be_is_told_before_the_work_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PublishError, match="exists and is not a folder"):
        check_target(tmp_path / "file")
    with pytest.raises(PublishError, match="is not a folder"):
        check_target(tmp_path / "file" / "below")
    with pytest.raises(PublishError, match="is a link"):
        check_target(tmp_path / "link")
    # /proc takes no folders from anyone, root included
    with pytest.raises(PublishError, match=r"cannot be written: .*; choose another --output"):
        check_target(Path("/proc/voxveil-released"))


def test_checking_a_target_leaves_nothing_behind(tmp_path: Path) -> None:
    check_target(tmp_path / "a" / "b" / "released")
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_released(staged: Path, tmp_path: Path, report: Report) -> None:
    (staged / "audio" / "elsewhere").symlink_to("/etc/hostname")
    with pytest.raises(PublishError, match=r"audio/elsewhere: neither a file nor a folder"):
        publish(staged, tmp_path / "out", report, "run-1")
    assert not (tmp_path / "out").exists()


def test_a_staged_folder_without_files_is_not_released(tmp_path: Path, report: Report) -> None:
    with pytest.raises(PublishError, match="the staged folder is empty"):
        publish(make_private(tmp_path / "staged"), tmp_path / "out", report, "run-1")
    with pytest.raises(PublishError, match="there is no staged folder"):
        publish(tmp_path / "nowhere", tmp_path / "out", report, "run-1")


def test_every_change_to_a_released_folder_is_found(staged: Path, tmp_path: Path, report: Report) -> None:
    target = tmp_path / "out"
    publish(staged, target, report, "run-1")
    (target / "index.parquet").write_bytes(b"PAR2")
    (target / "audio" / "a.flac").write_bytes(b"short")
    (target / "extra.txt").write_text("")
    assert verify_manifest(target) == [
        "audio/a.flac: 5 bytes long, 4000 in the manifest",
        "index.parquet: the content was changed",
        "extra.txt: the file is not in the manifest",
    ]
    (target / "index.parquet").unlink()
    assert "index.parquet: the file is missing" in verify_manifest(target)


def test_a_manifest_that_points_outside_is_a_problem_and_is_not_followed(
    staged: Path, tmp_path: Path, report: Report
) -> None:
    manifest = build_manifest(staged, report, "run-1")
    entry = manifest.files["index.parquet"]
    wicked = manifest.model_copy(update={"files": manifest.files | {"../../etc/passwd": entry, "/etc/passwd": entry}})
    (staged / "manifest.json").write_text(wicked.to_json())
    problems = verify_manifest(staged)
    assert len(problems) == 2
    assert all("names a file outside the folder" in problem for problem in problems)


def test_a_missing_or_broken_manifest_is_told_in_one_line(staged: Path) -> None:
    assert verify_manifest(staged) == [f"{staged}/manifest.json: cannot be read: No such file or directory"]
    (staged / "manifest.json").write_text('{"schema_version": "1.0"}')
    with pytest.raises(ManifestError, match=r"not a manifest: job_id: Field required"):
        read_manifest(staged)
