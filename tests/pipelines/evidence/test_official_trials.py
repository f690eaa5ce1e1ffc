"""Official trials: an audit compares whom the lists say, gender by gender, and refuses lists that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.schema import InputError
from pipelines.config import Job
from pipelines.evidence.privacy import attack
from pipelines.evidence.views import Views
from pipelines.prepare.vpc import TRIAL_SCHEMA, trials_path
from pipelines.release import plan_job
from pipelines.trials import read_trials

SPEAKERS, UTTERANCES, DIMENSIONS = 24, 6, 32
GENDER = {f"s{number:02d}": "fm"[number % 2] for number in range(SPEAKERS)}
UTT_IDS = {name: [f"{name}-{number}" for number in range(UTTERANCES)] for name in GENDER}
ENROLLED = {name: ids[:2] for name, ids in UTT_IDS.items()}


def official_rows() -> list[dict[str, Any]]:
    """A list for each gender: every speaker against four utterances of everybody of that gender."""
    return [
        {"enrolment_speaker": name, "utt_id": utt_id, "mated": name == other, "subset": f"test_trials_{GENDER[name]}"}
        for name in GENDER
        for other in GENDER
        if GENDER[name] == GENDER[other]
        for utt_id in UTT_IDS[other][2:]
    ]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job on an index of ids and roles, with official trials beside it."""
    rows = [
        {"utt_id": utt_id, "speaker_id": name, "role": "enrolment" if utt_id in ENROLLED[name] else "trial"}
        for name, ids in UTT_IDS.items()
        for utt_id in ids
    ]
    audio = pa.array([{"bytes": b"", "path": None}] * len(rows), pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    index = tmp_path / "index.parquet"
    pq.write_table(pa.Table.from_pylist(rows).append_column("audio", audio), index)
    write(index, official_rows())
    return Job(index=str(index), name="x", output=tmp_path / "out")


def write(index: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, TRIAL_SCHEMA), trials_path(index))


def views_and_attacker(lost: str = "") -> tuple[Views, pa.Table]:
    """A corpus whose embeddings are half voice, half gender, anonymized by noise; the utterance `lost` is not in it."""
    generator = np.random.default_rng(0)
    ids = [utt_id for own in UTT_IDS.values() for utt_id in own if utt_id != lost]
    speakers = [utt_id.split("-")[0] for utt_id in ids]
    voice = {name: generator.normal(size=DIMENSIONS) for name in GENDER}
    genders = {name: 2 * generator.normal(size=DIMENSIONS) for name in "fm"}
    rows = np.stack([voice[name] + genders[GENDER[name]] for name in speakers])
    versions = [rows + scale * generator.normal(size=rows.shape) for scale in (0.1, 1.5, 1.5)]
    tables = [pa.table({"utt_id": ids, "embedding": list(version.astype(np.float32))}) for version in versions]
    return Views(ids, speakers, *tables[:2]), tables[2]


def test_a_table_beside_the_index_is_used_and_one_that_is_named_wins(job: Job, tmp_path: Path) -> None:
    found = read_trials(job)
    assert found is not None
    assert len(found.utterances) == len(official_rows())
    moved = trials_path(Path(job.index)).rename(tmp_path / "moved.parquet")
    assert read_trials(job) is None
    named = read_trials(job.model_copy(update={"trials": str(moved)}))
    assert named is not None
    assert named.digest == found.digest


def test_only_listed_pairs_are_compared_and_each_list_has_a_figure(job: Job) -> None:
    views, attacker = views_and_attacker()
    attacks, figures, notes = attack(views, attacker, 0, official=read_trials(job))
    half = SPEAKERS // 2
    assert attacks["ignorant"].scores.size == 2 * half * half * 4
    split_of = {name: sorted(views.speakers).index(name) for name in GENDER}
    compared = zip(attacks["ignorant"].enrolment_speaker, attacks["ignorant"].trial_speaker, strict=True)
    names = sorted(split_of)
    assert all(GENDER[names[enrolled]] == GENDER[names[tried]] for enrolled, tried in compared)
    for subset in ("test_trials_f", "test_trials_m"):
        assert figures[f"subgroup.trials.{subset}.privacy.lazy_informed.eer"].n == half
    assert any("not drawn but given: 1152 trials" in note for note in notes)


def test_one_is_looked_for_among_all_whatever_the_lists_say(job: Job) -> None:
    """Linkability among twelve of one gender and among all 24 differ: the crowd is that of the corpus."""
    views, attacker = views_and_attacker()
    _, figures, _ = attack(views, attacker, 0, official=read_trials(job))
    assert "privacy.lazy_informed.linkability.20" in figures


def test_comparing_within_a_gender_is_harder_than_with_everybody(job: Job) -> None:
    views, attacker = views_and_attacker()
    _, drawn, _ = attack(views, attacker, 0)
    _, official, _ = attack(views, attacker, 0, official=read_trials(job))
    assert official["privacy.ignorant.eer"].value > drawn["privacy.ignorant.eer"].value


def test_trials_of_recordings_that_were_set_aside_are_counted(job: Job) -> None:
    views, attacker = views_and_attacker(lost="s03-4")
    attacks, _, notes = attack(views, attacker, 0, official=read_trials(job))
    assert attacks["ignorant"].scores.size == len(official_rows()) - SPEAKERS // 2
    assert any("12 of the 1152 given trials are of recordings that could not be used" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utt_id": "nobody-1"}, "row 1: the index has no utterance nobody-1"),
        ({"enrolment_speaker": "nobody"}, "row 1: speaker nobody is enrolled by no utterance"),
        ({"utt_id": "s00-0"}, "row 1: utterance s00-0 is enrolled, so the attacker would know the answer"),
        ({"mated": False}, "row 1: the index says otherwise of whether s00-2 was spoken by s00"),
        ({"subset": None}, "empty cells"),
    ],
)
def test_a_list_that_does_not_fit_its_index_is_refused(job: Job, change: dict[str, Any], message: str) -> None:
    rows = official_rows()
    write(Path(job.index), [rows[0] | change, *rows[1:]])
    with pytest.raises(InputError, match=message):
        plan_job(job, "audit")


@pytest.mark.parametrize(("mated", "message"), [(True, "compares two people"), (False, "a person with themselves")])
def test_trials_of_one_class_are_refused(job: Job, mated: bool, message: str) -> None:
    write(Path(job.index), [row for row in official_rows() if row["mated"] == mated])
    with pytest.raises(InputError, match=message):
        read_trials(job)


def test_a_table_without_roles_in_the_index_is_refused(job: Job) -> None:
    pq.write_table(pq.read_table(job.index).drop_columns("role"), job.index)
    with pytest.raises(InputError, match="need a column role"):
        read_trials(job)


def test_a_table_that_cannot_be_read_is_refused(job: Job) -> None:
    trials_path(Path(job.index)).write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_trials(job)
    with pytest.raises(InputError, match=r"none\.parquet cannot be read"):
        read_trials(job.model_copy(update={"trials": "none.parquet"}))
