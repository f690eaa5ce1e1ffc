"""`voxveil fetch`: what is here is checked and named, what cannot be had is one line with the way out."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from models import registry
from pipelines.fetch import fetch

REVISION = "0123456789abcdef0123456789abcdef01234567"
URI = f"hf://tiny/speaker@{REVISION}"
# Port 9 (discard) answers nobody; the hub's library tries five times, for half a minute.
UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}


def voxveil_fetch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, for the hub's library reads its settings when it is imported."""
    code = "import typer; from pipelines.fetch import fetch; app = typer.Typer(); app.command()(fetch); app()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"NO_COLOR": "1"} | environment,
    )


def in_cache(home: Path, content: bytes) -> Path:
    """Lay a repository of one file out as the hub's library keeps it."""
    snapshot = home / "hub" / "models--tiny--speaker" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "embedding_model.ckpt").write_bytes(content)
    return snapshot


@pytest.mark.parametrize(
    "hub", [{"HF_HUB_OFFLINE": "1"}, pytest.param(UNREACHABLE, marks=pytest.mark.slow)], ids=["offline", "unreachable"]
)
def test_without_the_hub_one_line_says_what_is_missing_how_big_it_is_and_what_to_do(
    tmp_path: Path, hub: dict[str, str]
) -> None:
    result = voxveil_fetch("--profile", "standard", HF_HOME=str(tmp_path), **hub)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    for expected in ("speechbrain/spkrec-ecapa-voxceleb at revision 0f99f2d0", "83 MB", "HF_ENDPOINT", "file:/folder"):
        assert expected in line


def test_weights_that_are_here_need_no_hub(tmp_path: Path) -> None:
    snapshot = in_cache(tmp_path, b"weights")
    result = voxveil_fetch(URI, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    assert f"{URI}: 1 files, 0 MB, of no known digest, taken as they are: {snapshot}" in result.stderr


def test_the_embedded_profile_is_there_with_its_packages_and_is_checked() -> None:
    result = CliRunner().invoke(app_of(), ["--profile", "embedded"])
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == len(registry.PROFILES["embedded"])
    assert "Resemblyzer" in lines[0]
    assert "checked, Apache-2.0" in lines[0]


def test_weights_that_are_not_what_they_should_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.ckpt"
    weights.write_bytes(b"other weights")
    uri = f"file:{weights}"
    expected = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(registry, "KNOWN", {uri: registry.Known("MIT", "a test", {"model.ckpt": expected})})
    result = CliRunner().invoke(app_of(), [uri])
    assert result.exit_code == 2
    assert "model.ckpt has SHA-256" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to fetch"),
        (["--profile", "best"], "there are embedded, standard"),
        (["ftp://somewhere/model"], "is not a weight's URI"),
        (["hf://no-revision/model"], "expected hf://organization/name@revision"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app_of(), arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def app_of() -> typer.Typer:
    app = typer.Typer()
    app.command()(fetch)
    return app
