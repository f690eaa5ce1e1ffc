"""What pitch is usual of people is measured once, over all that they say, and asked for by who goes by it alone."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from models.streamvoiceanon.contour import mean_pitch
from operators.measure_pitch import FRAME
from pipelines.cluster import ray_session
from pipelines.config import Job, load_job
from pipelines.progress import Track
from pipelines.runs import start_run
from pipelines.survey import survey_index
from pipelines.usual_pitch import goes_by_usual_pitch, learn_usual_pitch, usual_pitch


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session():
        yield


def job_of(index: Path, **options: Any) -> Job:
    return load_job(None, {"index": str(index), "name": "n", "output": index.parent / "out", "workers": 1, **options})


def pitch_of(rows: list[dict[str, Any]]) -> float:
    """The mean over all frames that have a pitch, in octaves above 1 Hz."""
    total, count = 0.0, 0
    for row in rows:
        wave = torch.from_numpy(soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0])
        octaves, voiced = mean_pitch(wave, FRAME)
        total, count = total + octaves * voiced, count + voiced
    return total / count


@pytest.mark.slow
def test_it_is_measured_over_all_that_somebody_says_and_once(
    session: None, few_rows: Any, write_index: Any, tmp_path: Path
) -> None:
    rows = few_rows(3, 3)
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(16_000), 16_000, format="flac")
    rows[0] = rows[0] | {"audio": {"bytes": silence.getvalue(), "path": None}}
    index = write_index(tmp_path / "index.parquet", rows)
    job = job_of(index, prosody="full")
    run, survey, said = start_run(job, "anonymize", {}, False), survey_index(str(index)), io.StringIO()
    track = Track(Console(file=said, width=200), None)
    usual = learn_usual_pitch(run, survey, "pitch", None, track)
    assert usual is not None
    for speaker in {row["speaker_id"] for row in rows}:
        own = [row for row in rows[1:] if row["speaker_id"] == speaker]
        assert usual[speaker] == pytest.approx(pitch_of(own), abs=1e-6), "silence counts for nothing"
    assert len(set(usual.values())) == 3
    parts = {path: path.stat().st_mtime_ns for path in run.parts("pitch").iterdir()}
    assert learn_usual_pitch(run, survey, "pitch", None, track) == usual
    assert parts == {path: path.stat().st_mtime_ns for path in run.parts("pitch").iterdir()}
    one = usual_pitch(run, "pitch", frozenset({rows[-1]["utt_id"]}))
    assert one == {rows[-1]["speaker_id"]: pytest.approx(pitch_of(rows[-1:]), abs=1e-6)}
    assert usual_pitch(run, "pitch", frozenset({rows[0]["utt_id"]})) == {}, "nobody who has no pitch"


def test_who_does_not_go_by_it_measures_nothing(few_rows: Any, write_index: Any, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.parquet", few_rows(2, 1))
    for options in ({"anonymizer": "mcadams"}, {"prosody": "reduced"}, {}):
        job = job_of(index, **options)
        run = start_run(job, "anonymize", {}, False)
        assert not goes_by_usual_pitch(job.anonymizer_spec)
        assert learn_usual_pitch(run, survey_index(str(index)), "pitch", None, Track(Console(quiet=True), None)) is None
        assert not (run.work / "pitch").exists()
        run.close()
    assert goes_by_usual_pitch(job_of(index, prosody="full").anonymizer_spec)
