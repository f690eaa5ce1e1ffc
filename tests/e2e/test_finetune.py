"""From random weights to an audited model on synthetic speech, as a user would: pretrain three times, then finetune.

Of each of the two commands one step is a process of its own, so nothing but what is on the disk can join the steps; the
others run in this process, on one Ray, because starting both takes longer than all the rest.
"""

import json
import subprocess
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file
from typer.testing import CliRunner

from governance.report import Report
from models.streamvoiceanon import VoiceBank
from operators.schema import InputError
from pipelines import finetune_evaluation
from pipelines.cli import app
from pipelines.cluster import ray_session
from pipelines.registered import download_model
from tests.e2e.test_command_line import last_line, voxveil

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Tuned:
    """What the commands left behind, and what they said."""

    folder: Path
    base: Path
    said: dict[str, Any]
    tracking: str


def voxveil_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; what it does not catch is raised."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, few_rows: Any, write_index: Any) -> Tuned:
    folder = tmp_path_factory.mktemp("finetune")
    index = write_index(folder / "index.parquet", few_rows(4, 6))
    shared = ["--config", "smoke", "--index", index, "--output", folder / "out"]
    said = {"too early": voxveil("pretrain", "lm", *shared, "--name", "small")}
    base = folder / "out" / "small" / "model"
    arguments = [*shared, "--name", "smoke", "--model", base]
    with ray_session():
        for stage, run in (("content", voxveil_here), ("codec", voxveil), ("lm", voxveil_here)):
            said[stage] = run("pretrain", stage, *shared, "--name", "small")
            assert said[stage].returncode == 0, said[stage].stderr
        for command in ("prepare", "run", "export", "evaluate"):
            run = voxveil if command == "export" else voxveil_here
            said[command] = run("finetune", command, *arguments)
            assert said[command].returncode == (3 if command == "evaluate" else 0), said[command].stderr
        said["again"] = voxveil_here("finetune", "run", *arguments, "--resume")
    return Tuned(folder / "out" / "smoke" / "finetune", base, said, f"sqlite:///{folder / 'out/mlflow.db'}")


def test_a_corpus_that_cannot_be_paired_is_told_in_one_line(tmp_path: Path, few_rows: Any, write_index: Any) -> None:
    index = write_index(tmp_path / "index.parquet", [row for row in few_rows(3, 6) if row["emotion"] != "neutral"])
    arguments = ["--config", "smoke", "--index", index, "--name", "none", "--model", tmp_path, "--output", tmp_path]
    refused = voxveil("finetune", "prepare", *arguments)
    assert refused.returncode == 2
    assert "no neutral speech" in last_line(refused)
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_the_language_model_waits_for_the_networks_whose_codes_it_learns(tuned: Tuned) -> None:
    assert tuned.said["too early"].returncode == 2
    assert "run `voxveil pretrain content` and `voxveil pretrain codec`" in last_line(tuned.said["too early"])


def test_each_stage_trains_its_own_network_from_random_weights(tuned: Tuned) -> None:
    described = json.loads((tuned.base / "streamvoiceanon.json").read_text())
    assert set(described["sources"]) == {"content_encoder", "codec", "acoustic_lm"}
    for stage, figure in (("content", "distillation"), ("codec", "codec.mel"), ("lm", "acoustic")):
        curve = tuned.base.parent / "pretrain" / stage / "training" / "curve.jsonl"
        lines = [json.loads(line) for line in curve.read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert all(figure in line for line in lines)


def test_codes_voices_and_teacher_are_kept_as_parquet_for_nobody_else(tuned: Tuned) -> None:
    prepared = tuned.folder / "prepared"
    (first, *_) = sorted((prepared / "parts").glob("*.parquet"))
    row = pq.read_table(first).to_pylist()[0]
    assert len(row["content"]) == row["frames"]
    assert len(row["acoustic"]) == 2 * row["frames"]
    assert len(row["teacher"]) == row["teacher_width"] * row["frames"]
    assert prepared.stat().st_mode & 0o077 == 0
    assert json.loads((prepared / "prepared.json").read_text())["rows"] == 24


def test_the_curve_has_every_step_and_is_in_mlflow(tuned: Tuned) -> None:
    curve = [json.loads(line) for line in (tuned.folder / "training" / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == list(range(1, 13))
    assert {"total", "acoustic", "content", "emotion"} <= set(curve[0])
    assert {"validation.total", "validation.emotion"} <= set(curve[-1])
    client = MlflowClient(tracking_uri=tuned.tracking)
    (run,) = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    history = client.get_metric_history(run.info.run_id, "total")
    assert [metric.value for metric in history] == pytest.approx([line["total"] for line in curve])
    assert run.data.params["fingerprint"]
    samples = {file.path.rsplit("-")[-1] for file in client.list_artifacts(run.info.run_id, "samples")}
    assert samples == {"before.flac", "after.flac"}


def test_the_export_differs_from_the_base_in_the_language_model_alone_and_in_no_shape(tuned: Tuned) -> None:
    base, made = (load_file(folder / "streamvoiceanon.safetensors") for folder in (tuned.base, tuned.folder / "model"))
    assert {key: value.shape for key, value in base.items()} == {key: value.shape for key, value in made.items()}
    changed = {key.split(".")[0] for key in base if not base[key].equal(made[key])}
    assert changed == {"acoustic_lm"}


def test_the_audit_compares_both_on_held_out_speakers_in_voices_of_the_others(tuned: Tuned) -> None:
    result = json.loads((tuned.folder / "result.json").read_text())
    metrics = {line["metric"]: line for line in result["table"]}
    for name in ("utility.uar.anonymized", "utility.wer.anonymized", "privacy.lazy_informed.eer"):
        assert metrics[name]["before"]["value"] is not None
        assert metrics[name]["after"]["value"] is not None
    held_out = set(pq.read_table(tuned.folder / "evaluation.parquet")["speaker_id"].to_pylist())
    assert len(held_out) == 2
    assert (tuned.folder / "evaluation.parquet").stat().st_mode & 0o077 == 0
    assert tuned.folder.stat().st_mode & 0o077 == 0, "it holds speech of people"
    assert len(VoiceBank.load(tuned.folder / "voices.parquet")) == 2
    assert "fine-tuned" in tuned.said["evaluate"].stderr


def test_a_policy_that_is_not_met_refuses_the_alias(tuned: Tuned) -> None:
    assert "The alias approved is refused" in last_line(tuned.said["evaluate"])
    client = MlflowClient(tracking_uri=tuned.tracking)
    version = client.get_model_version("smoke", json.loads((tuned.folder / "model.json").read_text())["version"])
    assert version.aliases == []
    assert "privacy rules are not met" in version.tags["audit"]
    assert {"base", "corpus", "configuration"} <= set(version.tags)


def test_resuming_what_is_done_changes_nothing(tuned: Tuned) -> None:
    assert tuned.said["again"].returncode == 0, tuned.said["again"].stderr
    assert "done after step 12" in last_line(tuned.said["again"])
    assert len((tuned.folder / "training" / "curve.jsonl").read_text().splitlines()) == 12


def test_a_model_whose_audit_passes_gets_the_alias_and_is_given_out_by_it(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit of before, as if every rule on privacy had been met: twelve steps on six utterances meet none."""
    told = Path(json.loads((tuned.folder / "result.json").read_text())["reports"]["after"])
    report = Report.model_validate_json(told.with_suffix(".json").read_text())
    rules = tuple(rule.model_copy(update={"passed": True}) for rule in report.rules)
    outcome = SimpleNamespace(report=report.model_copy(update={"rules": rules}), paths={"report": told})
    monkeypatch.setattr(finetune_evaluation, "run_job", lambda *_: outcome)
    monkeypatch.setattr(finetune_evaluation, "ray_session", nullcontext)
    output = tuned.folder.parents[1]
    with pytest.raises(InputError, match="did not pass its audit"):
        download_model("models:/smoke/1", output)
    arguments = ["--config", "smoke", "--index", output.parent / "index.parquet", "--output", output]
    said = voxveil_here("finetune", "evaluate", *arguments, "--name", "smoke", "--model", tuned.base)
    assert said.returncode == 0, said.stderr
    assert "has the alias approved now" in said.stderr
    given = download_model("models:/smoke@approved", output) / "streamvoiceanon.safetensors"
    assert given.read_bytes() == (tuned.folder / "model" / "streamvoiceanon.safetensors").read_bytes()
