"""Runs that were cut and left alone can be found and removed, and nothing else is touched."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from operators.schema import InputError
from pipelines.abandoned import find_abandoned, remove_run
from pipelines.cli import app
from pipelines.config import Job
from pipelines.runs import Run, start_run


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(index="corpus.parquet", name="calls", output=tmp_path / "out")


def cut(job: Job) -> Path:
    """Start a run and let its process end, which releases the lock and leaves the rest."""
    run = start_run(job, "release", {}, resume=False)
    (run.parts("anonymized") / "part.parquet").write_bytes(b"x" * 1000)
    run.lock.close()
    return run.folder


def test_a_run_that_was_cut_is_found_with_its_age_and_size(job: Job) -> None:
    folder = cut(job)
    for place in (job.output, job.folder()):
        (found,) = find_abandoned(place)
        assert found.folder == folder
        assert found.size > 1000
        assert f"{found.started:%Y%m%d-%H%M%S}" in folder.name


def test_one_that_was_cut_before_it_wrote_its_state_is_found_too(job: Job) -> None:
    (cut(job) / "state.json").unlink()
    assert len(find_abandoned(job.output)) == 1


def test_runs_that_go_on_or_ended_and_whatever_else_lies_there_are_left_alone(job: Job) -> None:
    going: Run = start_run(job, "release", {}, resume=False)
    ended = start_run(job, "release", {}, resume=False)
    ended.close()
    ended.lock.close()
    foreign = cut(job)
    (foreign / "state.json").write_text("[]")
    (job.folder() / "runs" / "notes").mkdir()
    (job.folder() / "runs" / "20260101-000000-abcdef").symlink_to(job.output)
    assert find_abandoned(job.output) == []
    going.lock.close()
    assert [run.folder for run in find_abandoned(job.output)] == [going.folder]


def test_a_run_that_was_taken_up_meanwhile_is_not_removed(job: Job) -> None:
    cut(job)
    (found,) = find_abandoned(job.output)
    resumed = start_run(job, "release", {}, resume=True)
    with pytest.raises(InputError, match="another process is working on"):
        remove_run(found)
    assert (resumed.work / "anonymized" / "part.parquet").exists()
    resumed.lock.close()


def test_the_command_lists_and_only_removes_where_it_is_asked(job: Job) -> None:
    folder = cut(job)
    listed = CliRunner().invoke(app, ["clean", str(job.output)])
    assert listed.exit_code == 0
    assert folder.exists()
    removed = CliRunner().invoke(app, ["clean", str(job.output), "--remove"])
    assert removed.exit_code == 0
    assert not folder.exists()
    assert CliRunner().invoke(app, ["clean", str(job.output)]).exit_code == 0
    assert CliRunner().invoke(app, ["clean", str(job.output / "none")]).exit_code == 2
