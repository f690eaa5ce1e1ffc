"""The survey of an index: what stops a job, what sets rows aside, and what is counted."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from operators.schema import InputError
from operators.select import Select
from pipelines.config import Job
from pipelines.survey import check_columns_wanted, check_output_apart, located, survey_index

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


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://example.org/i.parquet", r"pyarrow knows no such kind of URI; name a path, file://, s3://"),
        ("/", "is a whole file system; name a folder"),
        ("s3://key:verysecret@bucket@x/y?scheme=nonsense", "check the path and the credentials"),
    ],
)
def test_a_place_that_cannot_be_read_is_told_in_a_line_without_secrets(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        survey_index(uri)
    assert "verysecret" not in str(refused.value)


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


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("audio", [{"bytes": "x", "path": None}], "struct<bytes: string, path: null>"),
        ("audio", [{"bytes": b"x", "path": 3}], "struct<bytes: binary, path: int64>"),
        ("text", [["hello"]], "list<"),
        ("emotion", [{"name": "sad"}], "struct<"),
    ],
)
def test_columns_that_the_passes_could_not_carry_are_named(
    tmp_path: Path, column: str, values: list[Any], kind: str
) -> None:
    columns = {"utt_id": ["a"], "speaker_id": ["s"], "audio": [AUDIO], column: values}
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    with pytest.raises(InputError, match=rf"the column {column} is {re.escape(kind)}.*must be a? ?str"):
        survey_index(str(tmp_path / "i.parquet"))


def test_speakers_that_are_categories_are_read(tmp_path: Path, write_index: Any) -> None:
    index = write_index(tmp_path / "i.parquet", [row("a", "s"), row("b", "t"), row("b", "t"), row("c", None)])
    table = pq.read_table(index)
    for name in ("utt_id", "speaker_id"):
        column = table[name].combine_chunks().dictionary_encode()
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, index)
    survey = survey_index(str(index))
    assert (survey.speakers, survey.duplicate_ids, survey.missing_id_rows) == (2, frozenset({"b"}), 1)
    assert Select("original", ("utt_id", "speaker_id"))(table)["speaker_id"].to_pylist() == ["s", "t", "t"]


def test_languages_that_are_numbers_are_languages_that_nobody_knows(tmp_path: Path, write_index: Any) -> None:
    pq.write_table(
        pa.table({"utt_id": ["a"], "speaker_id": ["s"], "audio": [AUDIO], "language": [7]}), tmp_path / "i.parquet"
    )
    assert survey_index(str(tmp_path / "i.parquet")).languages == ("7",)


def test_two_columns_of_one_name_are_said_to_be_that(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["a"]), pa.array(["s"]), pa.array([AUDIO])]
    table = pa.Table.from_arrays(columns, names=["utt_id", "utt_id", "speaker_id", "audio"])
    pq.write_table(table, tmp_path / "i.parquet")
    with pytest.raises(InputError, match=r"i\.parquet has two columns of one name"):
        survey_index(str(tmp_path / "i.parquet"))


def test_files_of_one_index_that_disagree_are_named(tmp_path: Path, write_index: Any) -> None:
    write_index(tmp_path / "1.parquet", [row("a", gender="f")])
    third = write_index(tmp_path / "3.parquet", [row("c", gender="m")])
    table = pq.read_table(third)
    pq.write_table(table.set_column(table.schema.get_field_index("gender"), "gender", pa.array([1])), third)
    with pytest.raises(InputError, match=r"gender is int64 in .*3\.parquet and string before it; cast"):
        survey_index(str(tmp_path))
    pq.write_table(pa.table({"name": ["x"]}), third)
    with pytest.raises(InputError, match=r"3\.parquet lacks the columns utt_id"):
        survey_index(str(tmp_path))


def test_a_column_may_be_empty_or_missing_in_some_files(tmp_path: Path, write_index: Any) -> None:
    write_index(tmp_path / "1.parquet", [row("a", language=None)])
    first = pq.read_table(tmp_path / "1.parquet")
    pq.write_table(first.set_column(3, "language", pa.nulls(1)), tmp_path / "1.parquet")
    write_index(tmp_path / "2.parquet", [row("b", language="de")])
    write_index(tmp_path / "3.parquet", [row("c")])
    survey = survey_index(str(tmp_path))
    assert (survey.rows, survey.languages, survey.schema.field("language").type) == (3, ("de",), pa.string())


@pytest.mark.parametrize("kind", [pa.time64("us"), pa.duration("s"), pa.list_(pa.string()), pa.large_binary()])
def test_a_column_that_cannot_be_kept_is_refused_before_any_work(
    tmp_path: Path, write_index: Any, kind: pa.DataType
) -> None:
    index = write_index(tmp_path / "i.parquet", [row("a")])
    pq.write_table(pq.read_table(index).append_column("when", pa.nulls(1, kind)), index)
    job = Job(index=str(index), name="x", keep_columns=("when",))
    with pytest.raises(InputError, match=r"the column when is .*only plain values can be kept"):
        check_columns_wanted(job, survey_index(str(index), ("when",)))


def test_an_output_inside_the_folder_that_is_read_is_refused(tmp_path: Path, write_index: Any) -> None:
    (tmp_path / "corpus").mkdir()
    index = write_index(tmp_path / "corpus" / "i.parquet", [row("a")])
    inside = Job(index=str(tmp_path / "corpus"), name="x", output=tmp_path / "corpus" / "out")
    with pytest.raises(InputError, match="lies inside the index"):
        check_output_apart(inside)
    check_output_apart(inside.model_copy(update={"output": tmp_path / "out"}))
    check_output_apart(inside.model_copy(update={"index": str(index)}))  # one file is read, whatever lies beside it


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
