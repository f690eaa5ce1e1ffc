"""The attacker's own corpus: who may be in it, what it is kept under, and what is said where it cannot be used."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from operators.cut import Cut, count_pieces
from operators.decode import object_array
from operators.schema import InputError
from pipelines.anonymize import anonymizer_used
from pipelines.attacker import attacker_digest
from pipelines.attacker_cli import attacker_app
from pipelines.attacker_corpus import (
    Recording,
    read_recordings,
    recorded_once,
    refuse_shared_recordings,
    survey_training,
)
from pipelines.config import Job
from pipelines.release import plan_job
from pipelines.survey import survey_index
from pipelines.terminal import describe_plan


@pytest.fixture
def index(tmp_path: Path, few_rows: Any, write_index: Any) -> str:
    return str(write_index(tmp_path / "training.parquet", few_rows(3, 2)))


def test_a_speaker_in_training_and_trials_is_refused(index: str, few_rows: Any) -> None:
    with pytest.raises(InputError, match="1 speakers are both in the attacker's training corpus and in the trials"):
        survey_training(index, attacked=["somebody", few_rows(1, 1)[0]["speaker_id"]])
    assert survey_training(index, attacked=["somebody"]).speakers == 3


def test_the_overlap_is_refused_before_anything_runs(index: str, tmp_path: Path) -> None:
    job = Job(index=index, name="x", output=tmp_path / "out", attacker_corpus=index)
    with pytest.raises(InputError, match="3 speakers are both"):
        plan_job(job, "audit")
    assert not (tmp_path / "out").exists()


def test_a_corpus_that_shows_no_voice_twice_is_refused(tmp_path: Path, few_rows: Any, write_index: Any) -> None:
    alone = str(write_index(tmp_path / "alone.parquet", few_rows(4, 1)))
    with pytest.raises(InputError, match="fewer than two speakers with two utterances"):
        read_recordings(alone, survey_training(alone, attacked=()))


def test_a_corpus_of_one_speaker_is_refused_before_anything_runs(
    tmp_path: Path, few_rows: Any, write_index: Any
) -> None:
    with pytest.raises(InputError, match="has 1 speakers; training needs two at least"):
        survey_training(str(write_index(tmp_path / "one.parquet", few_rows(1, 2))), attacked=())


def test_recordings_under_other_names_are_refused(index: str, tmp_path: Path) -> None:
    """The parts of the attacked corpus carry the digest of what they were made from."""
    digests = [recording.digest for recording in read_recordings(index, survey_index(index)).values()]
    parts = tmp_path / "anonymized"
    parts.mkdir()
    pq.write_table(pa.table({"audio_digest": ["0" * 64, digests[0]]}), parts / "a.parquet")
    with pytest.raises(InputError, match="1 recordings are both"):
        refuse_shared_recordings(digests, parts)
    pq.write_table(pa.table({"audio_digest": ["0" * 64, ""]}), parts / "a.parquet")
    refuse_shared_recordings(digests, parts)


def test_recordings_that_cannot_be_read_are_left_out(tmp_path: Path, few_rows: Any, write_index: Any) -> None:
    rows = few_rows(2, 2)
    outside = rows[0] | {"utt_id": "outside", "audio": {"bytes": None, "path": "../secret.flac"}}
    (tmp_path / "secret.flac").write_bytes(rows[0]["audio"]["bytes"])
    noise = rows[0] | {"utt_id": "noise", "audio": {"bytes": b"no sound", "path": None}}
    nobody = rows[0] | {"utt_id": "nobody", "speaker_id": None}
    index = str(write_index(tmp_path / "corpus.parquet", [*rows, outside, noise, nobody]))
    assert set(read_recordings(index, survey_index(index))) == {row["utt_id"] for row in rows}


def test_an_attacker_is_kept_under_everything_that_makes_it(index: str, tmp_path: Path) -> None:
    job = Job(index=index, name="x", anonymizer="mcadams", output=tmp_path)
    recordings = {"a": Recording("anna", "1", 2.0), "b": Recording("bert", "2", 2.0)}
    digests = [
        digest(job, recordings),
        digest(job.model_copy(update={"anonymizer": "identity"}), recordings),
        digest(job.model_copy(update={"voice_level": "speaker"}), recordings),
        digest(job.model_copy(update={"sample_rate": 8_000}), recordings),
        digest(job, recordings | {"b": Recording("bert", "3", 2.0)}),
        digest(job, recordings | {"b": Recording("anna", "2", 2.0)}),
    ]
    assert len(set(digests)) == len(digests)
    other = job.model_copy(update={"name": "y", "index": "elsewhere.parquet", "seed": 7})
    assert digest(other, recordings) == digests[0]
    assert digest(job, dict(reversed(recordings.items()))) == digests[0]


def digest(job: Job, recordings: dict[str, Recording]) -> str:
    return attacker_digest(job, anonymizer_used(job), recordings)


def test_only_a_speakers_only_recording_is_cut() -> None:
    """Pieces have a voice each, as utterances have: so people who recorded once show how a voice varies."""
    once, twice = Recording("once", "1", 7.0), Recording("twice", "2", 7.0)
    recordings = {"a": once, "b": twice, "c": twice}
    assert recorded_once(recordings) == {"a"}
    names = np.array(["a", "b", "broken"], dtype=object)
    waves = object_array([np.arange(7, dtype=np.float32)] * 3)
    batch = {"utt_id": names, "speaker_id": names, "wave": waves, "reason": np.array(["", "", "silent"], dtype=object)}
    cut = Cut(frozenset({"a", "broken"}), sample_rate=1)(batch)
    assert cut["utt_id"].tolist() == ["a#0", "a#1", "b", "broken"]
    assert cut["speaker_id"].tolist() == ["a", "a", "b", "broken"]
    np.testing.assert_array_equal(np.concatenate(cut["wave"][:2].tolist()), waves[0])


def test_recordings_are_cut_into_four_pieces_of_three_seconds_at_most() -> None:
    assert [count_pieces(seconds) for seconds in (0.5, 5.9, 6.0, 12.0, 100.0)] == [1, 1, 2, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "none.parquet"], "does not exist"),
        (["--corpus", "{index}", "--anonymizer", "magic"], "no anonymizer is called"),
        (["--corpus", "{index}", "--profile", "best"], "profile"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    index: str, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = [option.replace("{index}", index) for option in options]
    result = CliRunner().invoke(attacker_app, ["train", *arguments, "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(attacker_app, ["train", "--help"])
    assert result.exit_code == 0
    assert "voxveil attacker train --corpus" in result.output


@pytest.mark.parametrize(("named", "told"), [(True, "trained on 3 speakers of"), (False, "trained on folds of")])
def test_a_dry_run_says_whom_the_attacker_is_trained_on(
    index: str, tmp_path: Path, sample_rows: Any, write_index: Any, named: bool, told: str
) -> None:
    trained_on = {row["speaker_id"] for row in pq.read_table(index).to_pylist()}
    others = [row for row in sample_rows if row["speaker_id"] not in trained_on]
    attacked = str(write_index(tmp_path / "attacked.parquet", others[:8]))
    corpus = index if named else None
    job = Job(index=attacked, name="x", output=tmp_path, policy="strict", attacker_corpus=corpus)
    console = Console(file=io.StringIO(), width=300)
    describe_plan(job, "audit", console)
    assert told in console.file.getvalue()
