"""What the README and `docs/` tell people to type does what they say."""

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from documented import PAGES, ROOT, Command, build_world, commands, files, inline_commands

from pipelines.cli import app
from pipelines.serve_ray import free_port

# Commands that the suite cannot run, and what shows them instead.
SHOWN_ELSEWHERE = {
    "make demo": "the demo's command is run by test_release.py; CONTRIBUTING has the clean clone",
    "make test": "this is it",
    "make setup": "`make test` depends on it",
    "voxveil model convert": "test_svanon_voices.py converts a folder laid out alike; the hub is out of reach",
    "voxveil attacker train --corpus corpora/others.parquet --network": "test_attacker_network.py",
    "voxveil audit --index corpora/calls.parquet --name calls-2026 --policy strict --attacker models:": (
        "test_attacker_training.py audits with the network that it has registered"
    ),
    "voxveil finetune": "test_finetune.py, with the smoke size and the sample corpus",
    "voxveil pretrain": "test_finetune.py, with the smoke size and the sample corpus",
    "python -m pipelines.fit_codebook": "tests/pipelines/training/test_fit_codebook.py",
    "python -m pipelines.match_codes": "tests/pipelines/training/test_match_codes.py",
    "python -m pipelines.fit_full_context": "tests/pipelines/training/test_fit_full_context.py",
    "voxveil serve": "tests/serve/test_cluster.py and test_network.py: a server does not end by itself",
    "curl": "tests/serve/test_files_and_pages.py sends the same request",
    ".venv/bin/ruff": "a part of `make test`",
    ".venv/bin/mypy": "a part of `make test`",
    ".venv/bin/python -m pytest": "a part of `make test`",
}
# Pages of results: their figures are the output. Their releases and audits are checked by a dry run, their trainings,
# which build on each other, by their options alone.
RESULTS = {"results.md"}


def described(command: Command) -> str:
    return f"{command.page}:{command.line}"


def elsewhere(command: Command) -> bool:
    return any(command.text.startswith(known) for known in SHOWN_ELSEWHERE)


ALL = [command for page in PAGES for command in commands(page)]
VOXVEIL = [command for command in ALL if "voxveil" in command.words[:2]]
INLINE = [command for page in PAGES for command in inline_commands(page)]


def test_there_are_commands_to_check() -> None:
    assert len(VOXVEIL) > 15
    assert len(INLINE) > 5


@pytest.mark.parametrize("command", VOXVEIL + INLINE, ids=described)
def test_every_option_of_a_command_exists(command: Command) -> None:
    words = [word for word in command.words if word not in ("…", "...")]
    parser: Any = typer.main.get_command(app)
    words = words[words.index("voxveil") + 1 :]
    while (subcommands := getattr(parser, "commands", None)) and words and not words[0].startswith("-"):
        assert words[0] in subcommands, f"no command {words[0]}"
        parser = subcommands[words.pop(0)]
    known = {option for parameter in parser.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in {*known, "--help"}]
    assert unknown == []


@pytest.mark.parametrize("command", [command for command in ALL if not command.shown], ids=described)
def test_a_command_is_run_here_or_shown_elsewhere(command: Command) -> None:
    is_run = re.match(r"(?:[A-Z_]+=\S+ )*(voxveil|export) ", command.text)
    assert is_run or elsewhere(command), f"{command.text!r} is neither run nor shown with its output ($ …)"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody who may use a Ray cluster of one node, RAY_ADDRESS among it."""
    port = str(free_port())
    environment = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port", port, "--num-cpus=2"]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # the paths of its sockets must stay short
        head = subprocess.Popen(
            [*ray, "--include-dashboard=false", "--temp-dir", folder],
            env=os.environ | environment | {"RAY_AUTH_MODE": "token"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        everybody = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for one in everybody:  # Ray itself takes half a minute to end in good order
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(everybody, timeout=60)
        head.wait()


def script(page: Path) -> str:
    """A page's own commands as one shell script that stops at the first that fails.

    The first release of a page is made; the others, which would take a minute each, are dry runs.
    """
    lines = ["set -u"]
    whole = 0 if page.name in RESULTS else 1
    for command in commands(page):
        if command.shown or elsewhere(command):
            continue
        text = command.text.partition(" #")[0].rstrip()
        if text.startswith("export RAY_ADDRESS="):
            continue  # the cluster's own
        if page.name in RESULTS and command.words[1] == "attacker":
            continue
        if command.words[1] in ("release", "audit"):
            text += "" if whole else " --dry-run"
            whole = 0
        lines += [
            f"echo '{described(command)}' >&2",
            f"{text}; code=$?",
            "[ $code = 0 ] || [ $code = 3 ] || exit $code",
        ]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(not command.shown and not elsewhere(command) for command in commands(page))],
    ids=lambda page: page.name,
)
def test_a_page_can_be_followed(
    page: Path,
    tmp_path: Path,
    few_rows: Callable[[int, int], list[dict[str, Any]]],
    write_index: Callable[..., Path],
    request: pytest.FixtureRequest,
) -> None:
    home = build_world(tmp_path, few_rows, write_index)
    for name, text in files(page).items():
        (home / name).write_text(text)
    if page.name == "cluster.md":
        (home / "job.yaml").write_text("index: corpora/few.parquet\nname: few\n")
    environment = request.getfixturevalue("cluster") if page.name == "cluster.md" else {}
    result = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=1_500,
        env=os.environ
        | environment
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    assert "Traceback" not in result.stderr
