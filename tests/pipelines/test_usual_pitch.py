"""What pitch is usual of people is measured once, over all that they say, and asked for by who goes by it alone.

Everybody who anonymizes is told of it, attackers by the recordings that they have: or they would seem weaker than they
are.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from rich.console import Console

from models.streamvoiceanon.contour import mean_pitch
from operators.anonymize import Anonymize
from operators.chain import Chain
from operators.decode import object_array
from operators.measure_pitch import FRAME, MeasurePitch
from pipelines import anonymize, attacker_corpus, attacker_network, audit, usual_pitch
from pipelines.attacker_corpus import Recording
from pipelines.attacker_network import Network
from pipelines.cluster import ray_session
from pipelines.config import Job, load_job
from pipelines.progress import Track
from pipelines.runs import start_run
from pipelines.survey import survey_index
from pipelines.usual_pitch import INDEX, TRAINING, goes_by_usual_pitch, measure_usual_pitch, read_usual_pitch


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


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of Anonymize in every pass that is begun; of passes that measure pitch the work is done here."""
    told: list[dict[str, Any]] = []

    def view(folder: str, files: list[str], select: Any, schema: Any) -> pa.Table:
        return select(pa.concat_tables([pq.read_table(file) for file in files])) if files else pa.table({})

    def run(table: pa.Table, rows: int, steps: list[Any], *others: Any) -> None:
        told.extend(arguments for operator, arguments in steps if operator is Anonymize)
        if any(operator is MeasurePitch for operator, _ in steps):
            Chain(steps)({name: object_array(table[name].to_pylist()) for name in table.column_names})

    for module in (usual_pitch, anonymize, audit, attacker_corpus, attacker_network):
        monkeypatch.setattr(module, "read_view", view)
        monkeypatch.setattr(module, "run_pass", run)
    return told


def test_whoever_anonymizes_is_told_of_it(
    passes: list[dict[str, Any]], few_rows: Any, write_index: Any, tmp_path: Path
) -> None:
    rows = few_rows(3, 3)
    index = write_index(tmp_path / "index.parquet", [*rows, rows[0], rows[1] | {"speaker_id": None, "utt_id": "lost"}])
    job, track = job_of(index, prosody="full"), Track(Console(quiet=True), None)
    run, survey = start_run(job, "audit", {}, False), survey_index(str(index))
    people = {row["speaker_id"] for row in rows}
    own = {who: [row for row in rows[1:] if row["speaker_id"] == who] for who in people}  # the first has a double
    every = {who: pytest.approx(pitch_of(said), abs=1e-5) for who, said in own.items()}
    known = frozenset(said[-1]["utt_id"] for said in own.values())
    few = {who: pytest.approx(pitch_of(said[-1:]), abs=1e-5) for who, said in own.items()}
    anonymize.anonymize_index(run, survey, track)
    audit.anonymize_as_attacker(run, survey, known, track)
    no_card: Any = None  # who listens reads the weights alone, and here nobody does
    network = Network(tmp_path, no_card, "file:network")
    attacker_network.embed_with(run, survey, network, known, frozenset(), track)
    recordings = {row["utt_id"]: Recording(row["speaker_id"], "", 2.0) for row in rows[1:]}
    attacker_corpus.anonymize_corpus(run, survey, recordings, run.parts("corpus"), [], track)
    assert [arguments["usual_pitch"] for arguments in passes] == [every, few, few, every]
    assert len({arguments["key"] for arguments in passes}) == 3, "attackers have keys of their own"
    assert {path.name for path in run.work.iterdir()} >= {INDEX, TRAINING}
    passes.clear()
    plain = job_of(index, prosody="reduced")
    anonymize.anonymize_index(start_run(plain, "audit", {}, False), survey, track)
    assert [arguments["usual_pitch"] for arguments in passes] == [None]


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
    usual = measure_usual_pitch(run, survey, INDEX, None, track)
    assert usual is not None
    for speaker in {row["speaker_id"] for row in rows}:
        own = [row for row in rows[1:] if row["speaker_id"] == speaker]
        assert usual[speaker] == pytest.approx(pitch_of(own), abs=1e-6), "silence counts for nothing"
    assert len(set(usual.values())) == 3
    parts = {path: path.stat().st_mtime_ns for path in run.parts(INDEX).iterdir()}
    assert measure_usual_pitch(run, survey, INDEX, None, track) == usual
    assert parts == {path: path.stat().st_mtime_ns for path in run.parts(INDEX).iterdir()}
    one = read_usual_pitch(run, INDEX, frozenset({rows[-1]["utt_id"]}))
    assert one == {rows[-1]["speaker_id"]: pytest.approx(pitch_of(rows[-1:]), abs=1e-6)}
    assert read_usual_pitch(run, INDEX, frozenset({rows[0]["utt_id"]})) == {}, "nobody who has no pitch"
    run.close()
    with pytest.raises(RuntimeError, match="no pitch was measured"):
        read_usual_pitch(run, INDEX)


def test_who_does_not_go_by_it_measures_nothing(few_rows: Any, write_index: Any, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.parquet", few_rows(2, 1))
    for options in ({"anonymizer": "mcadams"}, {"prosody": "reduced"}, {}):  # {}: before the index has decided
        job = job_of(index, **options)
        run = start_run(job, "anonymize", {}, False)
        assert not goes_by_usual_pitch(job.anonymizer_spec)
        assert measure_usual_pitch(run, survey_index(str(index)), INDEX, None, Track(Console(quiet=True), None)) is None
        assert not (run.work / INDEX).exists()
        run.close()
    assert goes_by_usual_pitch(job_of(index, prosody="full").anonymizer_spec)
