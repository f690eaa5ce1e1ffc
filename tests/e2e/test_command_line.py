"""The command line as a user meets it: help, exit codes, and one clear line for each mistake."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

VOXVEIL = [sys.executable, "-m", "pipelines"]


def voxveil(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VOXVEIL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,  # minutes on a busy machine; a hang is what this ends
        cwd=Path(__file__).parents[2],
        env=os.environ | {"COLUMNS": "160", "NO_COLOR": "1"} | environment,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture
def index(tmp_path: Path, few_rows: Any, write_index: Any) -> Path:
    return write_index(tmp_path / "index.parquet", few_rows(2, 2))


@pytest.mark.parametrize("command", ["release", "audit", "anonymize", "demo", "report", "prepare"])
def test_help_shows_a_working_example(command: str) -> None:
    result = voxveil(command, "--help")
    assert result.returncode == 0
    assert "Example: voxveil" in " ".join(result.stdout.replace("`", "").split())


def test_help_imports_nothing_heavy() -> None:
    heavy = ["torch", "ray", "mlflow", "pyarrow.dataset", "faster_whisper", "sklearn", "matplotlib"]
    code = f"import sys, pipelines.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=True)
    assert result.stdout.strip() == "[]"


def test_checking_a_job_imports_no_network() -> None:
    heavy = ["torch", "ray", "mlflow", "sklearn", "scipy.stats", "matplotlib"]
    code = f"import sys, pipelines.terminal; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=True)
    assert result.stdout.strip() == "[]"


def test_every_field_of_a_job_is_an_option() -> None:
    from pipelines.config import Job

    shown = voxveil("release", "--help").stdout
    assert [name for name in Job.model_fields if f"--{name.replace('_', '-')}" not in shown] == []


def test_a_dry_run_checks_and_runs_nothing(index: Path, tmp_path: Path) -> None:
    result = voxveil("release", "--index", index, "--name", "dry", "--output", tmp_path / "out", "--dry-run")
    assert result.returncode == 0, result.stderr
    for expected in (
        "nothing was run",
        "4, 4 of them",
        "can be read",
        "streamvoiceanon",
        "Resemblyzer",
        "would release to",
    ):
        assert expected in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_the_index_decides(sample_rows: Any, write_index: Any, tmp_path: Path) -> None:
    rows = [row | {"language": "de"} for row in sample_rows if row["emotion"] in ("sad", "angry")][:4]
    rows[0]["emotion"], rows[1]["emotion"] = "sad", "angry"
    index = write_index(tmp_path / "index.parquet", rows)
    result = voxveil("audit", "--index", index, "--name", "dry", "--output", tmp_path / "out", "--dry-run")
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stderr.split())
    assert "heard as in a live call" in told
    assert "prosody full" in told
    assert "(de), so every utterance is heard as in a live call (option --context)." in told
    assert "Since emotions are labelled (angry, sad), intonation, beside the pitch that is usual" in told


def test_wrong_input_ends_with_two_and_one_line(index: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "name: p\nversion: '1'\nrules:\n  - {metric: privacy.lazy_informed.err, bound: {at_least: 0.4}, reason: none}\n"
    )
    occupied = tmp_path / "occupied" / "x" / "released"
    occupied.mkdir(parents=True)
    (occupied / "data.parquet").touch()
    file = tmp_path / "file"
    file.touch()
    cases = [
        (["--index", tmp_path / "none.parquet", "--name", "x"], "does not exist"),
        (["--index", index], "name: is missing (option --name)"),
        (["--index", index, "--name", "x", "--policy", policy], "nearest name is “privacy.lazy_informed.eer”"),
        (["--index", index, "--name", "x", "--output", tmp_path / "occupied"], "exists and is not empty"),
        (["--index", index, "--name", "x", "--output", file / "below"], "not a folder"),
        (["--index", index, "--name", "x", "--keep-columns", "dialect"], "lacks the column dialect"),
        (["--index", index, "--name", "x", "--profile", "standard"], "voxveil fetch --profile standard"),
        (["--index", index, "--name", "x", "--output", tmp_path / "new", "--resume"], "no unfinished release"),
    ]
    for arguments, message in cases:
        result = voxveil("release", *arguments)
        assert result.returncode == 2, (arguments, result.stderr)
        assert "Traceback" not in result.stderr
        assert message in last_line(result), (arguments, result.stderr)
