"""A job's configuration: files, options, and the one line that each mistake gets."""

from pathlib import Path

import pytest

from operators.schema import InputError
from pipelines.config import Job, job_key, load_job

BASE = {"index": "corpus.parquet", "name": "corpus"}


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("index: other.parquet\nname: corpus\nkeep_columns: [text]\n")
    job = load_job(file, {"index": "corpus.parquet", "seed": None})
    assert (job.index, job.name, job.keep_columns, job.seed) == ("corpus.parquet", "corpus", ("text",), 0)


def test_a_path_in_a_job_file_starts_where_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "corpus.parquet").touch()
    file = tmp_path / "job.yaml"
    file.write_text("index: corpus.parquet\nname: corpus\n")
    assert load_job(file, {}).index == str(tmp_path / "corpus.parquet")


def test_commas_separate_columns() -> None:
    assert load_job(None, BASE | {"keep_columns": "text, gender"}).keep_columns == ("text", "gender")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../up"}, r"name: use letters, digits"),
        ({"anonymizer": "magic"}, r"no anonymizer is called 'magic'; there are streamvoiceanon, mcadams, identity"),
        ({"model": "some/model"}, r"the model some/model needs a voice bank of its own: --voices BANK"),
        ({"keep_columns": "speaker_id"}, r"keep_columns: speaker_id is released anyway"),
        ({"index": ""}, r"index: .*at least 1 character"),
        ({"min_seconds": 9.0, "max_seconds": 3.0}, r"min_seconds is not below max_seconds"),
        ({"profile": "best"}, r"profile: .*embedded"),
        ({"sample_rate": 10}, r"sample_rate: .*8000"),
        ({"spelling": 1}, r"spelling: .*Fields: index, name"),
        ({"index": None}, r"index: is missing \(option --index\)"),
    ],
)
def test_a_mistake_is_named_with_its_field(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_job(None, BASE | fields)


@pytest.mark.parametrize(
    ("text", "message"), [("index: [", "is not YAML"), ("- a\n- b\n", "must be a mapping"), (None, "cannot read")]
)
def test_a_job_file_that_is_none_says_why(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "job.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_job(file, {})


@pytest.mark.parametrize(("key", "message"), [("xyz", "not hexadecimal"), ("00ff", "shorter than 16 bytes")])
def test_a_key_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, key: str, message: str) -> None:
    monkeypatch.setenv("VOXVEIL_KEY", key)
    with pytest.raises(InputError, match=message):
        job_key(Job(**BASE))
