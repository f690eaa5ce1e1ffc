"""The index itself: its contract, its audio, its row groups, and that it appears whole or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.schema import AUDIO_TYPE, InputError
from pipelines.prepare import index
from pipelines.prepare.index import Utterance, canonical_emotion, write_index


@pytest.fixture
def utterances(tmp_path: Path, write_tone) -> list[Utterance]:
    audio = tmp_path / "corpus" / "audio"
    return [
        Utterance(f"u{n}", f"s{n % 2}", write_tone(audio / f"u{n}.wav"), {"text": None}, f"row {n}") for n in range(5)
    ]


def test_the_schema_is_the_contract(utterances: list[Utterance], tmp_path: Path) -> None:
    write_index(utterances, tmp_path / "corpus", tmp_path / "corpus" / "index.parquet", ["text"], embed=False)
    assert pq.read_schema(tmp_path / "corpus" / "index.parquet") == pa.schema(
        [("utt_id", pa.string()), ("speaker_id", pa.string()), ("audio", AUDIO_TYPE), ("text", pa.string())]
    )


def test_embedded_audio_is_the_file_bit_for_bit_without_its_name(utterances: list[Utterance], tmp_path: Path) -> None:
    output = tmp_path / "corpus" / "index.parquet"
    assert write_index(utterances, tmp_path / "corpus", output, ["text"], embed=True) == (5, 2, True)
    audio = pq.read_table(output)["audio"].to_pylist()
    assert audio == [{"bytes": each.audio.read_bytes(), "path": None} for each in utterances]


@pytest.mark.parametrize("folder", ["elsewhere", "corpus/audio/below", "corpus2"])
def test_an_index_outside_the_corpus_holds_the_audio(utterances: list[Utterance], tmp_path: Path, folder: str) -> None:
    output = tmp_path / folder / "index.parquet"
    assert write_index(utterances, tmp_path / "corpus", output, ["text"], embed=False) == (5, 2, True)
    assert pq.read_table(output)["audio"][0].as_py() == {"bytes": utterances[0].audio.read_bytes(), "path": None}


def test_row_groups_are_bounded_by_the_bytes_they_hold(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = utterances[0].audio.stat().st_size
    monkeypatch.setattr(index, "ROW_GROUP_BYTES", 2 * size)
    output = tmp_path / "corpus" / "index.parquet"
    write_index(utterances, tmp_path / "corpus", output, ["text"], embed=True)
    metadata = pq.ParquetFile(output).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [2, 2, 1]


def test_rows_are_written_while_the_corpus_is_still_being_read(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "ROW_GROUP_ROWS", 2)
    output = tmp_path / "corpus" / "index.parquet"
    sizes = []

    def watched() -> Iterator[Utterance]:
        for utterance in utterances:
            sizes.append(sum(path.stat().st_size for path in output.parent.glob(".index.parquet.*")))
            yield utterance

    write_index(watched(), tmp_path / "corpus", output, ["text"], embed=False)
    assert sizes[0] <= sizes[2] < sizes[4]  # a group of two is on disk before the fifth row is asked for


def test_a_failure_leaves_the_former_index_and_nothing_half_written(
    utterances: list[Utterance], tmp_path: Path
) -> None:
    output = tmp_path / "corpus" / "index.parquet"
    write_index(utterances, tmp_path / "corpus", output, ["text"], embed=False)
    former = output.read_bytes()
    with pytest.raises(InputError, match="row 0: utt_id 'u0' is there twice; give each row its own"):
        write_index([*utterances, utterances[0]], tmp_path / "corpus", output, ["text"], embed=True)
    assert output.read_bytes() == former
    assert sorted(path.name for path in output.parent.iterdir()) == ["audio", "index.parquet"]


@pytest.mark.parametrize(
    ("name", "example"),
    [("metadata.csv", "metadata.parquet"), ("audio", "audio/index.parquet"), ("index", "index.parquet")],
)
def test_an_output_that_is_no_parquet_file_is_refused(
    utterances: list[Utterance], tmp_path: Path, name: str, example: str
) -> None:
    with pytest.raises(
        InputError, match=rf"{name}: an index is one Parquet file; name it so, for example .*/{example}$"
    ):
        write_index(utterances, tmp_path / "corpus", tmp_path / "corpus" / name, ["text"], embed=False)


def test_an_output_that_cannot_be_written_is_refused(utterances: list[Utterance], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"index\.parquet: cannot be written \(.+\); choose another output"):
        write_index(utterances, tmp_path / "corpus", tmp_path / "file" / "index.parquet", ["text"], embed=False)


def test_a_file_too_long_for_an_arrow_array_is_refused(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MAX_AUDIO_BYTES", 100)
    with pytest.raises(InputError, match=r"row 0: .*u0\.wav has more than 2 GiB; cut it into utterances"):
        write_index(utterances, tmp_path / "corpus", tmp_path / "corpus" / "i.parquet", ["text"], embed=True)


@pytest.mark.parametrize(
    ("label", "canonical"),
    [
        ("happiness", "happy"),
        (" Sadness ", "sad"),
        ("ANGER", "angry"),
        ("neutral", "neutral"),
        ("happy", "happy"),
        ("fear", "fear"),
        ("Langeweile", "Langeweile"),
    ],
)
def test_emotions_have_the_recognisers_names(label: str, canonical: str) -> None:
    assert canonical_emotion(label) == canonical
