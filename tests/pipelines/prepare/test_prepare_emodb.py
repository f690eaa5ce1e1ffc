"""EmoDB: the file names tell everything, and what they tell reaches the index."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from operators.schema import InputError
from pipelines.prepare.emodb import GENDERS, TEXTS, prepare_emodb


@pytest.fixture
def download(tmp_path: Path, write_tone) -> Path:
    source = tmp_path / "download"
    for name in ("03a01Fa", "03a02Nc", "08b10Wb", "16a05La", "09b01Ed", "10b09Aa", "13a07Ta"):
        write_tone(source / "wav" / f"{name}.wav")
    return source


def test_a_name_gives_speaker_text_emotion_and_gender(download: Path) -> None:
    prepared = prepare_emodb(download, download / "index.parquet", embed=False)
    rows = {row["utt_id"]: row for row in pq.read_table(prepared.path).to_pylist()}
    assert rows["03a01Fa"] == {
        "utt_id": "03a01Fa",
        "speaker_id": "03",
        "audio": {"bytes": None, "path": "wav/03a01Fa.wav"},
        "text": "Der Lappen liegt auf dem Eisschrank.",
        "emotion": "happy",
        "gender": "m",
        "language": "de",
    }
    assert {name: (row["speaker_id"], row["emotion"], row["gender"]) for name, row in rows.items()} == {
        "03a01Fa": ("03", "happy", "m"),
        "03a02Nc": ("03", "neutral", "m"),
        "08b10Wb": ("08", "angry", "f"),
        "09b01Ed": ("09", "disgust", "f"),
        "10b09Aa": ("10", "fear", "m"),
        "13a07Ta": ("13", "sad", "f"),
        "16a05La": ("16", "boredom", "f"),
    }
    assert (prepared.rows, prepared.speakers, prepared.embedded, prepared.skipped) == (7, 6, False, ())


def test_the_wav_folder_itself_will_do(download: Path) -> None:
    prepared = prepare_emodb(download / "wav", download / "index.parquet", embed=False)
    assert pq.read_table(prepared.path)["audio"][0]["path"].as_py() == "wav/03a01Fa.wav"


@pytest.mark.parametrize("name", ["._03a01Fa.wav", "99a01Fa.wav", "03a03Fa.wav", "03a01Xa.wav", "notes.txt"])
def test_a_file_of_another_name_is_left_out_and_named(download: Path, name: str) -> None:
    (download / "wav" / name).write_bytes(b"")
    prepared = prepare_emodb(download, download / "index.parquet", embed=False)
    assert prepared.rows == 7
    assert prepared.skipped == (f"{name}: not named like an EmoDB recording (03a01Fa.wav)",)


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no utterances found; is this the folder of the corpus"):
        prepare_emodb(tmp_path, tmp_path / "index.parquet", embed=False)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        prepare_emodb(tmp_path / "nowhere", tmp_path / "index.parquet", embed=False)


def test_the_tables_agree_with_the_published_counts() -> None:
    assert len(TEXTS) == 10
    assert sorted(GENDERS.values()) == ["f"] * 5 + ["m"] * 5
