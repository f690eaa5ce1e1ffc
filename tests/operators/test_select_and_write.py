"""Selecting rows before a pass and writing parts after it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.decode import object_array
from operators.schema import AUDIO_TYPE, released_schema
from operators.select import Select
from operators.write import WriteParts

TABLE = pa.table(
    {
        "utt_id": ["a", "b", None, "d"],
        "speaker_id": ["s", "s", "s", None],
        "audio": pa.array([{"bytes": b"x", "path": None}] * 4, AUDIO_TYPE),
        "gender": ["f", "f", "f", "f"],
    }
)
SCHEMA = pa.schema([("view", pa.string()), ("utt_id", pa.string()), ("embedding", pa.list_(pa.float32()))])


def test_rows_without_ids_and_excluded_rows_stay_behind() -> None:
    columns = ("utt_id", "speaker_id", "audio", "gender", "text")
    kept = Select("original", columns, excluded=frozenset({"b"}))(TABLE)
    assert kept["utt_id"].to_pylist() == ["a"]
    assert kept["view"].to_pylist() == ["original"]
    assert kept["text"].to_pylist() == [None]


def test_a_kept_column_without_any_value_is_one_of_strings() -> None:
    assert released_schema({"note": pa.null(), "age": pa.int8()}).field("note").type == pa.string()


def test_only_the_named_rows_are_kept_where_names_are_given() -> None:
    assert Select("v", ("utt_id",), only=frozenset({"b"}))(TABLE)["utt_id"].to_pylist() == ["b"]


def batch(ids: list[str]) -> dict[str, np.ndarray]:
    return {
        "view": object_array(["v"] * len(ids)),
        "utt_id": object_array(ids),
        "embedding": object_array([np.ones(3, np.float32)] * len(ids)),
        "reason": object_array(["", *["silent"] * (len(ids) - 1)]),
    }


def test_writing_a_batch_twice_leaves_one_part(tmp_path: Path) -> None:
    write = WriteParts(str(tmp_path), SCHEMA)
    for _ in range(2):
        receipt = write(batch(["a", "b", "c"]))
    assert (receipt["rows"].tolist(), receipt["unusable"].tolist()) == ([3], [2])
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]
    assert pq.read_table(tmp_path)["utt_id"].to_pylist() == ["a", "b", "c"]


def test_other_rows_make_another_part(tmp_path: Path) -> None:
    write = WriteParts(str(tmp_path), SCHEMA)
    write(batch(["a"]))
    write(batch(["b"]))
    assert len(list(tmp_path.glob("*.parquet"))) == 2
