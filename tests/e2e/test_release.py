"""A dataset with one of each fault goes in, a decision comes out, and only what was decided is released.

One job serves most tests: MLflow is down when it first runs, and it is resumed when MLflow is back.
"""

import io
import json
import os
import signal
import socket
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
import soundfile

from governance.manifest import verify_manifest
from operators.schema import AUDIO_TYPE
from tests.e2e.test_command_line import VOXVEIL, last_line, voxveil

pytestmark = pytest.mark.slow

KEY = "5a" * 32
LENIENT = """
name: lenient
version: "1"
description: Lets this test's corpus pass.
rules:
  - {metric: data.quarantined_fraction, bound: {at_most: 0.9}, confidence: point, reason: half of this corpus is broken}
  - {metric: utility.wer.increase, bound: {at_most: 1.0}, confidence: point, reason: it is measured at all}
"""


def wav(samples: np.ndarray, subtype: str = "PCM_16") -> dict[str, Any]:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", subtype=subtype)
    return {"bytes": buffer.getvalue(), "path": None}


def faulty_rows(good: dict[str, Any], wave: np.ndarray) -> dict[str, dict[str, Any]]:
    """One row a fault, by the reason that it must get; duplicates are two rows more."""
    broken = wave.copy()
    broken[100] = np.nan
    audio = {
        "missing_audio": {"bytes": None, "path": None},
        "path_outside": {"bytes": None, "path": "../outside.wav"},
        "file_missing": {"bytes": None, "path": "none.wav"},
        "unreadable": {"bytes": good["audio"]["bytes"][:5000], "path": None},
        "empty": {"bytes": b"", "path": None},
        "too_short": wav(wave[:1000]),
        "too_long": wav(np.tile(wave, 30)),
        "silent": wav(np.zeros(32_000)),
        "non_finite": wav(broken, "FLOAT"),
        "clipped": wav(np.sign(wave)),
    }
    rows = {reason: good | {"utt_id": f"bad-{reason}", "audio": sound} for reason, sound in audio.items()}
    rows["missing_id"] = good | {"utt_id": None}
    return rows


@dataclass(frozen=True)
class Released:
    """What the job left behind, at each stage."""

    output: Path
    index: Path
    rows: list[dict[str, Any]]
    good: list[dict[str, Any]]
    unreachable: subprocess.CompletedProcess[str]
    staged_while_down: bool
    released_while_down: bool
    resumed: subprocess.CompletedProcess[str]
    result: dict[str, Any]

    @property
    def data(self) -> Path:
        return self.output / "faulty" / "released"


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, few_rows: Any, sample_wave: np.ndarray, write_index: Any
) -> Released:
    folder = tmp_path_factory.mktemp("release")
    good = few_rows(4, 3)
    twice = [good[0] | {"utt_id": "twice"}, good[1] | {"utt_id": "twice"}]
    rows = [*good, *faulty_rows(good[0], sample_wave).values(), *twice]
    index = write_index(folder / "index.parquet", rows)
    policy = folder / "lenient.yaml"
    policy.write_text(LENIENT)
    output = folder / "out"
    arguments = ["release", "--index", index, "--name", "faulty", "--output", output, "--policy", policy]
    arguments += [
        "--anonymizer",
        "mcadams",
        "--keep-columns",
        "text,emotion",
        "--max-seconds",
        "60",
        "--json",
        folder / "result.json",
    ]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    unreachable = voxveil(*arguments, VOXVEIL_KEY=KEY, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    (run,) = (output / "faulty" / "runs").iterdir()
    staged = any((run / "staged").glob("*.parquet"))
    out_early = (output / "faulty" / "released").exists()
    resumed = voxveil(*arguments, "--resume", VOXVEIL_KEY=KEY)
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads((folder / "result.json").read_text())
    return Released(output, index, rows, good, unreachable, staged, out_early, resumed, result)


def test_without_mlflow_the_result_is_staged_and_nothing_released(released: Released) -> None:
    assert released.unreachable.returncode == 1
    assert "Traceback" not in released.unreachable.stderr
    assert "--resume" in last_line(released.unreachable)
    assert released.staged_while_down
    assert not released.released_while_down


def test_input_rows_are_released_or_quarantined(released: Released) -> None:
    counts = released.result["counts"]
    assert counts["input"] == len(released.rows)
    assert counts["input"] == counts["released"] + counts["quarantined"]
    assert counts["released"] == len(released.good)


def test_each_fault_is_quarantined_for_its_reason(released: Released) -> None:
    table = pq.read_table(released.result["paths"]["quarantine"]).to_pylist()
    by_id = {row["utt_id"]: row["reason"] for row in table if row["utt_id"] and row["utt_id"].startswith("bad-")}
    assert by_id == {f"bad-{reason}": reason for reason in by_id.values()}
    assert len(by_id) == 10
    assert sorted(row["reason"] for row in table if not (row["utt_id"] or "").startswith("bad-")) == [
        "duplicate_id",
        "duplicate_id",
        "missing_id",
    ]
    assert len(table) == released.result["counts"]["quarantined"]


def test_the_released_table_reads_as_the_contract_says(released: Released) -> None:
    table = pds.dataset(released.data, format="parquet", exclude_invalid_files=True).to_table()
    assert table.column_names == ["utt_id", "speaker_id", "audio", "text", "emotion"]
    assert table.schema.field("audio").type == AUDIO_TYPE
    assert sorted(table["text"].to_pylist()) == sorted(row["text"] for row in released.good)
    assert len(set(table["speaker_id"].to_pylist())) == 4
    for row in table.to_pylist():
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
        assert rate == 16_000
        assert row["audio"]["path"] is None
        assert np.abs(samples).max() > 0.01


def test_the_released_folder_loads_as_a_hugging_face_dataset(released: Released, tmp_path: Path) -> None:
    import datasets

    files = [str(path) for path in released.data.glob("*.parquet")]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(loaded) == len(released.good)
    assert isinstance(loaded.features["audio"], datasets.Audio)
    assert loaded.features["audio"].sampling_rate == 16_000


def test_nothing_of_the_source_is_in_the_released_files(released: Released) -> None:
    sources = [row["utt_id"] for row in released.good] + [row["speaker_id"] for row in released.good]
    for path in released.data.iterdir():
        content = path.read_bytes()
        assert not [name for name in sources if name.encode() in content], path
        assert KEY.encode() not in content
        assert bytes.fromhex(KEY) not in content
    audio = pds.dataset(released.data, format="parquet", exclude_invalid_files=True).to_table()["audio"].to_pylist()
    originals = {row["audio"]["bytes"] for row in released.good}
    assert not originals & {sound["bytes"] for sound in audio}
    assert not any(b"LIBSNDFILE" in sound["bytes"].upper()[:200] or b"TITLE=" in sound["bytes"] for sound in audio)


def test_the_manifest_vouches_for_every_file(released: Released) -> None:
    assert verify_manifest(released.data) == []
    manifest = json.loads((released.data / "manifest.json").read_text())
    assert manifest["decision"] == "release"
    assert manifest["mlflow_run_id"] == released.result["mlflow_run_id"]


def test_the_result_for_machines_has_rules_metrics_and_paths(released: Released) -> None:
    result = released.result
    assert result["decision"] == "release"
    assert [rule["metric"] for rule in result["rules"]] == ["data.quarantined_fraction", "utility.wer.increase"]
    for name in (
        "privacy.unprotected.eer",
        "privacy.ignorant.eer",
        "privacy.lazy_informed.eer",
        "privacy.lazy_informed.linkability.2",
        "utility.wer.original",
        "utility.wer.anonymized",
        "utility.emotion_agreement",
        "utility.dnsmos.anonymized",
        "utility.pitch_correlation",
        "utility.duration_ratio",
        "data.quarantined_fraction",
    ):
        figure = result["metrics"][name]
        assert figure["lower"] <= figure["value"] <= figure["upper"], name
        assert figure["n"] > 0
    assert Path(result["paths"]["released"]) == released.data


def test_real_auditors_were_at_work(released: Released) -> None:
    metrics = released.result["metrics"]
    # Clear synthetic speech: the attacker tells four speakers apart and Whisper understands nearly every word.
    assert metrics["privacy.unprotected.eer"]["value"] < 0.15
    assert metrics["utility.wer.original"]["value"] < 0.2
    assert 1.5 < metrics["utility.dnsmos.original"]["value"] < 5
    assert metrics["utility.duration_ratio"]["value"] == pytest.approx(1.0, abs=0.01)


def test_few_speakers_are_not_trusted(released: Released) -> None:
    figure = released.result["metrics"]["privacy.lazy_informed.eer"]
    assert not figure["trustworthy"]
    assert any("speakers" in reason for reason in figure["reasons"])


def test_the_run_keeps_no_work_tables_and_is_private(released: Released) -> None:
    (run,) = (released.output / "faulty" / "runs").iterdir()
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert not (run / "work").exists()
    assert not (run / "key").exists()


def test_neither_key_nor_speech_nor_ids_reach_report_or_mlflow(released: Released) -> None:
    (run,) = (released.output / "faulty" / "runs").iterdir()
    secrets = [KEY, released.good[0]["utt_id"], released.good[0]["speaker_id"], released.good[0]["text"]]
    files = [path for path in (run / "report").rglob("*") if path.is_file()]
    files += [released.output / "mlflow.db", *(p for p in (released.output / "mlartifacts").rglob("*") if p.is_file())]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path


def test_mlflow_has_the_run_with_its_decision(released: Released) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{released.output / 'mlflow.db'}")
    run = client.get_run(released.result["mlflow_run_id"])
    assert run.data.tags["decision"] == "release"
    assert run.data.tags["released_to"] == released.result["paths"]["released"]
    assert (
        run.data.metrics["privacy.lazy_informed.eer"]
        == released.result["metrics"]["privacy.lazy_informed.eer"]["value"]
    )
    assert "report.html" in [artifact.path for artifact in client.list_artifacts(run.info.run_id)]


def test_a_second_release_to_the_same_place_is_refused(released: Released) -> None:
    again = voxveil("release", "--index", released.index, "--name", "faulty", "--output", released.output)
    assert again.returncode == 2
    assert "exists and is not empty" in last_line(again)


def test_the_report_command_shows_the_decision_again(released: Released) -> None:
    shown = voxveil("report", released.output / "faulty")
    assert shown.returncode == 0
    assert "RELEASE" in shown.stderr


def test_a_release_can_be_audited_as_a_corpus_itself(released: Released) -> None:
    """The released folder is an index: a dry run reads it as it is."""
    again = voxveil("audit", "--index", released.data, "--name", "again", "--output", released.output, "--dry-run")
    assert again.returncode == 0, again.stderr
    assert f"{len(released.good)}, {len(released.good)} of them" in again.stderr


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, few_rows: Any, write_index: Any) -> None:
    index = write_index(tmp_path / "index.parquet", few_rows(8, 6))

    def start(output: Path) -> list[str]:
        named = ["--index", str(index), "--name", "x", "--anonymizer", "mcadams", "--output", str(output)]
        return [*VOXVEIL, "anonymize", *named, "--workers", "1"]

    environment = os.environ | {"VOXVEIL_KEY": KEY}
    killed = tmp_path / "killed"
    process = subprocess.Popen(start(killed), env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not list(killed.glob("x/runs/*/work/anonymized/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    parts = list(killed.glob("x/runs/*/work/anonymized/*.parquet"))
    assert parts, "the run was killed before it had written anything"
    assert not list(killed.glob("x/runs/*/staged/*.parquet")), "the run was over before it could be killed"
    resumed = subprocess.run([*start(killed), "--resume"], env=environment, capture_output=True, text=True, timeout=900)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes at" in resumed.stderr
    straight = subprocess.run(
        start(tmp_path / "straight"), env=environment, capture_output=True, text=True, timeout=900
    )
    assert straight.returncode == 0, straight.stderr
    first, second = (
        {path.name: path.read_bytes() for path in folder.glob("x/runs/*/staged/*.parquet")}
        for folder in (killed, tmp_path / "straight")
    )
    assert first == second
    assert len(first) == 1


def test_a_corpus_of_one_speaker_is_withheld_with_the_reason(tmp_path: Path, few_rows: Any, write_index: Any) -> None:
    index = write_index(tmp_path / "index.parquet", few_rows(1, 3))
    result = voxveil(
        *("release", "--index", index, "--name", "x", "--anonymizer", "mcadams"),
        *("--output", tmp_path / "out", "--json", tmp_path / "r.json"),
    )
    assert result.returncode == 3, result.stderr
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["decision"] == "withhold"
    assert "privacy.lazy_informed.eer" not in written["metrics"]
    report = json.loads(Path(written["paths"]["report_json"]).read_text())
    assert any("at least two speakers with two utterances" in note for note in report["notes"])
    assert not (tmp_path / "out" / "x" / "released").exists()
