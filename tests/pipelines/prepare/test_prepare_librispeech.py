"""LibriSpeech: transcripts, speakers and genders are found where openslr.org puts them."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from operators.schema import InputError
from pipelines.prepare.librispeech import prepare_librispeech

SPEAKERS = """; a comment | that has | bars
14   | F | train-clean-360  | 25.03 | A Reader
60   | M | train-clean-100  | 20.18 | A |Nick| Name
"""


@pytest.fixture
def download(tmp_path: Path, write_tone) -> Path:
    source = tmp_path / "LibriSpeech"
    for subset, speaker, chapter, texts in (
        ("train-clean-360", "14", "208", ["IT IS NOTHING", "SAID THE OTHER"]),
        ("train-clean-100", "60", "121082", ["A LONG DAY"]),
        ("train-clean-100", "61", "70968", ["NOBODY KNOWS WHO"]),
    ):
        folder = source / subset / speaker / chapter
        lines = [f"{speaker}-{chapter}-{number:04d} {text}\n" for number, text in enumerate(texts)]
        for line in lines:
            write_tone(folder / f"{line.split()[0]}.flac")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    (source / "SPEAKERS.TXT").write_text(SPEAKERS)
    return source


def rows_of(index: Path) -> dict[str, dict]:
    return {row["utt_id"]: row for row in pq.read_table(index).to_pylist()}


def test_an_utterance_has_its_text_and_its_readers_gender(download: Path) -> None:
    prepared = prepare_librispeech(download, download / "index.parquet", embed=False)
    rows = rows_of(prepared.path)
    assert rows["14-208-0001"] == {
        "utt_id": "14-208-0001",
        "speaker_id": "14",
        "audio": {"bytes": None, "path": "train-clean-360/14/208/14-208-0001.flac"},
        "text": "SAID THE OTHER",
        "gender": "f",
        "language": "en",
    }
    assert {utt_id: row["gender"] for utt_id, row in rows.items()} == {
        "14-208-0000": "f",
        "14-208-0001": "f",
        "60-121082-0000": "m",
        "61-70968-0000": None,  # not in SPEAKERS.TXT
    }
    assert (prepared.rows, prepared.speakers, prepared.skipped) == (4, 3, ())


def test_one_subset_finds_the_speakers_above_it(download: Path) -> None:
    prepared = prepare_librispeech(download / "train-clean-360", download / "index.parquet", embed=False)
    assert {row["gender"] for row in rows_of(prepared.path).values()} == {"f"}
    assert prepared.rows == 2


def test_without_a_list_of_speakers_gender_is_unknown(download: Path) -> None:
    (download / "SPEAKERS.TXT").unlink()
    prepared = prepare_librispeech(download, download / "index.parquet", embed=False)
    assert {row["gender"] for row in rows_of(prepared.path).values()} == {None}


def test_the_readers_names_do_not_reach_the_index(download: Path) -> None:
    prepared = prepare_librispeech(download, download / "index.parquet", embed=False)
    assert "Reader" not in str(rows_of(prepared.path))
    assert "Nick" not in str(rows_of(prepared.path))


def test_a_transcript_without_audio_is_left_out_and_named(download: Path) -> None:
    (download / "train-clean-360/14/208/14-208-0000.flac").unlink()
    prepared = prepare_librispeech(download, download / "index.parquet", embed=False)
    assert prepared.rows == 3
    assert prepared.skipped == ("14-208-0000: transcribed in train-clean-360/14/208, but without audio",)


def test_audio_without_a_transcript_is_kept_without_text(download: Path, write_tone) -> None:
    write_tone(download / "train-clean-360/14/208/14-208-0009.flac")
    prepared = prepare_librispeech(download, download / "index.parquet", embed=False)
    assert rows_of(prepared.path)["14-208-0009"]["text"] is None


def test_a_broken_transcript_is_refused_by_name(download: Path) -> None:
    (download / "train-clean-360/14/208/14-208.trans.txt").write_bytes(b"14-208-0000 \xff\xfe")
    with pytest.raises(InputError, match=r"14-208\.trans\.txt: cannot be read as UTF-8 text"):
        prepare_librispeech(download, download / "index.parquet", embed=False)
