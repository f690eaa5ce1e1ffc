"""The attacker's network from end to end: killed in its training and resumed, recorded, and listening in an audit."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from governance.attackers import read_card
from pipelines.config import Job
from pipelines.progress import Track
from pipelines.release import run_job

pytestmark = pytest.mark.slow

STEPS = 120  # enough to be cut in their middle on any machine
NETWORK = f"""
channels: 8
attention_channels: 8
embedding: 16
crop_seconds: 1.0
training: {{steps: {STEPS}, batch_size: 8, learning_rate: 0.003, validate_every: 30, checkpoint_every: 5}}
"""
STRONGEST = """
name: strongest attacker alone
version: "1"
rules:
  - {metric: privacy.semi_informed.eer, bound: {at_least: 0.35}, reason: nobody is recognised by who knows the system}
"""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, few_rows: Any, write_index: Any) -> tuple[Path, str, int]:
    """The folder of a training that was killed and resumed, what the second run said, and where the first was cut."""
    folder = tmp_path_factory.mktemp("training")
    index = write_index(folder / "others.parquet", few_rows(12, 2)[8:])
    (folder / "network.yaml").write_text(NETWORK)
    command = [sys.executable, "-m", "pipelines", "attacker", "train", "--corpus", str(index), "--workers", "1"]
    command += ["--anonymizer", "identity", "--network", str(folder / "network.yaml"), "--output", str(folder / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    pattern, deadline = "out/attackers/runs/*/work/network-*", time.monotonic() + 900
    while time.monotonic() < deadline and process.poll() is None:
        if list(folder.glob(f"{pattern}/steps/00*5/state.json")):
            break
        time.sleep(0.05)
    everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everybody:  # as when the machine goes down: a worker alone would train on for seconds
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(everybody, timeout=60)
    (curve,) = folder.glob(f"{pattern}/curve.jsonl")
    steps = len(curve.read_text().splitlines())
    result = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return folder, result.stderr, steps


def attackers(folder: Path) -> list[Path]:
    return [path for path in (folder / "out" / "attackers").iterdir() if len(path.name) == 64]


def test_a_killed_training_goes_on_where_it_was(resumed: tuple[Path, str, int]) -> None:
    folder, said, cut_at = resumed
    assert 0 < cut_at < STEPS, "the training was over before it could be killed"
    assert "resumes at 16 of 16" in said
    (kept,) = attackers(folder)
    card = read_card(kept)
    assert len(card.losses) == STEPS
    assert card.anonymizer.name == "identity"
    assert not list((folder / "out" / "attackers").glob("runs/*/work"))


def test_the_curve_and_the_model_are_in_mlflow_with_their_lineage(resumed: tuple[Path, str, int]) -> None:
    folder, said, _ = resumed
    assert "registered as models:/attacker-identity/1" in said
    client = MlflowClient(f"sqlite:///{folder / 'out' / 'mlflow.db'}")
    version = client.get_model_version("attacker-identity", "1")
    card = read_card(attackers(folder)[0])
    expected = {
        "anonymizer_digest": card.anonymizer.digest,
        "configuration_digest": card.digest,
        "corpus_fingerprint": card.corpus_fingerprint,
    }
    assert expected.items() <= version.tags.items()
    assert version.run_id is not None
    steps = [metric.step for metric in client.get_metric_history(version.run_id, "total")]
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert client.get_run(version.run_id).data.params["training.steps"] == str(STEPS)


def test_an_audit_listens_with_the_registered_network(
    resumed: tuple[Path, str, int], few_rows: Any, write_index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resumed[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / "policy.yaml").write_text(STRONGEST)
    job = Job(
        index=str(write_index(folder / "attacked.parquet", few_rows(4, 3))),
        name="listened",
        output=folder / "out",
        anonymizer="identity",
        policy=str(folder / "policy.yaml"),
        attacker="models:/attacker-identity/1",
        workers=1,
    )
    with open(os.devnull, "w") as nowhere:
        from rich.console import Console

        report = run_job(job, "audit", False, Track(Console(file=nowhere), None)).report
    figure = report.metrics["privacy.semi_informed.eer"]
    assert figure.value is not None
    assert any("was trained on 6 speakers; at least 20 are needed" in reason for reason in figure.reasons)
    assert any("a network that was trained on 12 utterances of 6 speakers" in note for note in report.notes)
    assert report.decision == "withhold"
    used = [model.uri for model in report.lineage.auditors if model.role == "semi-informed attacker"]
    assert used == ["models:/attacker-identity/1"]
