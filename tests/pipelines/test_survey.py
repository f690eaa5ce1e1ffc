"""The survey of an index: what stops a job, what sets rows aside, and what is counted."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from operators.schema import InputError
from pipelines.survey import located, survey_index

AUDIO = {"bytes": b"x", "path": None}


def row(utt_id: str | None, speaker: str | None = "s", **more: Any) -> dict[str, Any]:
    return {"utt_id": utt_id, "speaker_id": speaker, "audio": AUDIO, **more}


def test_rows_speakers_and_languages_are_counted(tmp_path: Path, write_index: Any) -> None:
    rows = [row("a", "s", language="en"), row("b", "t", language="de"), row("c", "t", language=None)]
    survey = survey_index(str(write_index(tmp_path / "i.parquet", rows)))
    assert (survey.rows, survey.usable_rows, survey.speakers, survey.languages) == (3, 3, 2, ("de", "en"))


def test_every_row_of_a_duplicate_id_is_set_aside(tmp_path: Path, write_index: Any) -> None:
    rows = [row("a"), row("b"), row("a"), row("c"), row("a")]
    survey = survey_index(str(write_index(tmp_path / "i.parquet", rows)))
    assert (survey.duplicate_ids, survey.duplicate_rows, survey.usable_rows) == (frozenset({"a"}), 3, 2)


def test_a_row_without_an_id_or_a_speaker_is_set_aside(tmp_path: Path, write_index: Any) -> None:
    survey = survey_index(str(write_index(tmp_path / "i.parquet", [row("a"), row(None), row("b", None)])))
    assert (survey.missing_id_rows, survey.usable_rows) == (2, 1)


def test_several_files_in_a_folder_are_one_index(tmp_path: Path, write_index: Any) -> None:
    write_index(tmp_path / "1.parquet", [row("a")])
    write_index(tmp_path / "2.parquet", [row("b"), row("a")])
    survey = survey_index(str(tmp_path))
    assert (survey.rows, survey.duplicate_rows, survey.folder) == (3, 2, str(tmp_path))


def test_an_index_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.parquet does not exist; `voxveil prepare --help`"):
        survey_index(str(tmp_path / "none.parquet"))
    with pytest.raises(InputError, match=r"holds no \.parquet file"):
        survey_index(str(tmp_path))


def test_a_file_that_is_not_parquet_says_so(tmp_path: Path) -> None:
    (tmp_path / "i.parquet").write_text("utt_id,speaker_id\n")
    with pytest.raises(InputError, match="is not Parquet"):
        survey_index(str(tmp_path / "i.parquet"))


def test_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"utt_id": ["a"], "sound": ["x"]}), tmp_path / "i.parquet")
    with pytest.raises(InputError, match="lacks the columns speaker_id, audio; it has utt_id, sound"):
        survey_index(str(tmp_path / "i.parquet"))


def test_columns_of_another_type_are_named(tmp_path: Path) -> None:
    audio = pa.array([AUDIO], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"utt_id": [1], "speaker_id": ["s"], "audio": audio}), tmp_path / "i.parquet")
    with pytest.raises(InputError, match="the column utt_id is int64; it must be a string"):
        survey_index(str(tmp_path / "i.parquet"))
    pq.write_table(pa.table({"utt_id": ["a"], "speaker_id": ["s"], "audio": ["a.wav"]}), tmp_path / "i.parquet")
    with pytest.raises(InputError, match="the column audio is string; it must be struct"):
        survey_index(str(tmp_path / "i.parquet"))


def test_a_column_that_the_job_names_must_exist(tmp_path: Path, write_index: Any) -> None:
    index = write_index(tmp_path / "i.parquet", [row("a")])
    with pytest.raises(InputError, match="lacks the column dialect"):
        survey_index(str(index), ("dialect",))


def test_an_index_without_rows_says_so(tmp_path: Path, write_index: Any) -> None:
    full = pq.read_table(write_index(tmp_path / "i.parquet", [row("a")]))
    pq.write_table(full.slice(0, 0), tmp_path / "i.parquet")
    with pytest.raises(InputError, match="has no rows"):
        survey_index(str(tmp_path / "i.parquet"))


@pytest.mark.parametrize(
    ("uri", "path", "expected"),
    [
        ("/data/index.parquet", "/data", "/data"),
        ("file:///data/index.parquet", "/data", "file:///data"),
        ("s3://bucket/a/b.parquet", "bucket/a", "s3://bucket/a"),
        ("s3://key:se%2Fcret@bucket/a/b?region=eu-west-1", "bucket/a", "s3://key:se%2Fcret@bucket/a?region=eu-west-1"),
        ("hdfs://host:9000/a/b", "/a", "hdfs://host:9000/a"),
    ],
)
def test_a_place_on_an_index_s_file_system_keeps_its_credentials_and_options(
    uri: str, path: str, expected: str
) -> None:
    assert located(uri, path) == expected


def test_an_index_with_a_space_in_its_uri_is_read(tmp_path: Path, write_index: Any) -> None:
    (tmp_path / "two words").mkdir()
    index = write_index(tmp_path / "two words" / "i.parquet", [row("a")])
    survey = survey_index(index.as_uri())
    assert survey.rows == 1
    assert pyarrow.fs.FileSystem.from_uri(survey.folder)[1] == str(tmp_path / "two words")
