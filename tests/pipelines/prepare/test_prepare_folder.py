"""A folder with a table: what the table says reaches the index, and what is wrong with it is said plainly."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import real_corpus

from operators.schema import InputError
from pipelines.prepare.folder import prepare_folder

TABLE = """utt_id,speaker_id,path,text,emotion,gender,room
a1,anna,audio/a1.flac,"Yes, please.",happiness,Female,kitchen
b1,bert,audio/b1.flac,,Anger,m,
c1,carl,audio/c1.flac,Good night.,boredom,x,hall
"""


@pytest.fixture
def recordings(tmp_path: Path, write_tone) -> Path:
    source = tmp_path / "recordings"
    for name in ("a1", "b1", "c1"):
        write_tone(source / "audio" / f"{name}.flac")
    (source / "metadata.csv").write_text(TABLE)
    return source


def prepare(source: Path) -> list[dict]:
    return pq.read_table(prepare_folder(source, source / "index.parquet", embed=False).path).to_pylist()


def test_every_column_arrives_and_labels_are_canonical(recordings: Path) -> None:
    columns = ("utt_id", "speaker_id", "text", "emotion", "gender", "room")
    assert [tuple(row[column] for column in columns) for row in prepare(recordings)] == [
        ("a1", "anna", "Yes, please.", "happy", "f", "kitchen"),
        ("b1", "bert", None, "angry", "m", None),
        ("c1", "carl", "Good night.", "boredom", "x", "hall"),
    ]


def test_paths_are_relative_to_the_index(recordings: Path) -> None:
    prepare_folder(recordings, recordings.parent / "index.parquet", embed=False)
    audio = pq.read_table(recordings.parent / "index.parquet")["audio"].to_pylist()
    assert audio[0] == {"bytes": None, "path": "recordings/audio/a1.flac"}


def test_columns_of_other_names_are_mapped(recordings: Path) -> None:
    table = "file\treader\ttake\taudio/x\naudio/a1.flac\tanna\t1\tnote\n"
    (recordings / "takes.tsv").write_text(table)
    columns = {"path": "file", "speaker_id": "reader", "utt_id": "take"}
    output = recordings / "index.parquet"
    prepare_folder(recordings, output, embed=False, table="takes.tsv", columns=columns)
    assert pq.read_table(output).to_pylist() == [
        {"utt_id": "1", "speaker_id": "anna", "audio": {"bytes": None, "path": "audio/a1.flac"}, "audio/x": "note"}
    ]


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_header(recordings: Path) -> None:
    (recordings / "metadata.csv").write_text(TABLE, encoding="utf-8-sig")
    assert [row["utt_id"] for row in prepare(recordings)] == ["a1", "b1", "c1"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"metadata\.csv: the table is empty; its first line names the columns: utt_id, speaker_id, path"),
        ("utt_id,speaker_id,path\n", r"metadata\.csv: the table has a header and no rows; add one row"),
        (
            "utt_id,path\na1,audio/a1.flac\n",
            r"metadata\.csv: column speaker_id is missing; it has utt_id, path\. Rename",
        ),
        ("utt_id;speaker_id;path\na1;anna;audio/a1.flac\n", r"metadata\.csv: its columns are not separated by commas"),
        ("utt_id,speaker_id,path,text,text\n", r"metadata\.csv: column text is there twice"),
        ("utt_id,speaker_id,path,audio\n", r"metadata\.csv: a column named audio would hide the audio"),
        (
            "utt_id,speaker_id,path\na1,anna,audio/zz.flac\n",
            r"line 2 \(utt_id 'a1'\): no audio file at .*zz\.flac; restore",
        ),
        ("utt_id,speaker_id,path\na1,anna,audio\n", r"line 2 \(utt_id 'a1'\): no audio file at .*audio; restore"),
        ("utt_id,speaker_id,path\na1,anna,\n", r"line 2 \(utt_id 'a1'\): path is empty; name the audio file"),
        ("utt_id,speaker_id,path\na1,anna,a\0.flac\n", r"line 2 .*is not a path \(.*\); correct it"),
        (
            "utt_id,speaker_id,path\na1,anna,../x.flac\n",
            r"line 2 .*'\.\./x\.flac' leaves the folder .*; copy the audio",
        ),
        ("utt_id,speaker_id,path\na1,anna,/etc/passwd\n", r"line 2 .*'/etc/passwd' leaves the folder"),
        ("utt_id,speaker_id,path\n,anna,audio/a1.flac\n", r"line 2: utt_id is empty; every row needs one"),
        ("utt_id,speaker_id,path\na1,,audio/a1.flac\n", r"line 2: speaker_id is empty; every row needs one"),
        ("utt_id,speaker_id,path\na1,anna\n", r"line 2: 2 fields, but 3 columns; quote fields"),
        (
            "utt_id,speaker_id,path\na1,anna,audio/a1.flac\na1,bert,audio/b1.flac\n",
            r"line 3: utt_id 'a1' is there twice; give each row its own",
        ),
        ('utt_id,speaker_id,path\n"a1"x,anna,audio/a1.flac\n', r"metadata\.csv, line 2: not a CSV line"),
    ],
)
def test_a_wrong_table_is_refused_with_row_file_and_mend(recordings: Path, table: str, message: str) -> None:
    (recordings / "metadata.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        prepare(recordings)
    assert sorted(path.name for path in recordings.iterdir()) == ["audio", "metadata.csv"]


def test_a_table_that_is_not_text_is_refused(recordings: Path) -> None:
    (recordings / "metadata.csv").write_bytes(b"utt_id,speaker_id,path\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"metadata\.csv: not UTF-8 text; save the table as UTF-8"):
        prepare(recordings)


def test_a_missing_table_is_refused(recordings: Path) -> None:
    (recordings / "metadata.csv").unlink()
    with pytest.raises(InputError, match=r"metadata\.csv: no such table; write one, or name it with --table"):
        prepare(recordings)


def test_mapping_a_column_that_is_not_there_is_refused(recordings: Path) -> None:
    with pytest.raises(InputError, match="no column 'client' to map; it has utt_id, speaker_id"):
        prepare_folder(recordings, recordings / "index.parquet", embed=False, columns={"speaker_id": "client"})


def test_a_link_that_leaves_the_folder_is_refused(recordings: Path, tmp_path: Path, write_tone) -> None:
    (recordings / "audio" / "a1.flac").unlink()
    (recordings / "audio" / "a1.flac").symlink_to(write_tone(tmp_path / "elsewhere.flac"))
    with pytest.raises(InputError, match=r"'audio/a1\.flac' leaves the folder"):
        prepare(recordings)


@pytest.mark.parametrize("name", ["emodb", "librispeech-test-other", "librispeech-voices"])
def test_a_real_table_is_read_as_it_is(name: str, tmp_path: Path, write_tone) -> None:
    """The real corpora where they are present; elsewhere a folder of the same make."""
    source = real_corpus(name)
    if source is None:
        source = tmp_path / name
        write_tone(source / "audio" / "103-1240-0000.flac")
        header = "utt_id,speaker_id,path,text,emotion,gender,language"
        (source / "metadata.csv").write_text(f"{header}\n103,s-103,audio/103-1240-0000.flac,Ja.,fear,f,de\n")
    with (source / "metadata.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    prepared = prepare_folder(source, tmp_path / "index.parquet", embed=True)
    table = pq.read_table(prepared.path)
    assert table["utt_id"].to_pylist() == [row["utt_id"] for row in listed]
    assert prepared.speakers == len({row["speaker_id"] for row in listed})
    assert table["gender"].to_pylist() == [row["gender"] for row in listed]
    assert table["audio"][0]["bytes"].as_py() == (source / listed[0]["path"]).read_bytes()
