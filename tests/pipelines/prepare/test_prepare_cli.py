"""`voxveil prepare` as a person meets it: help with an example, one line for an error, a summary."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.prepare.cli import prepare_app

HEADER = "utt_id,speaker_id,path\n"


@pytest.fixture
def recordings(tmp_path: Path, write_tone) -> Path:
    source = tmp_path / "recordings"
    write_tone(source / "audio" / "a1.flac")
    (source / "metadata.csv").write_text(f"{HEADER}a1,anna,audio/a1.flac\n")
    return source


@pytest.mark.parametrize("command", ["emodb", "librispeech", "folder"])
def test_help_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(prepare_app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example:  voxveil prepare {command}" in result.output


def test_the_index_lies_in_the_folder_by_default(recordings: Path) -> None:
    result = CliRunner().invoke(prepare_app, ["folder", str(recordings)])
    assert result.exit_code == 0, result.output
    assert result.output == f"{recordings / 'index.parquet'}: 1 utterances, 1 speakers\n"
    assert pq.read_table(recordings / "index.parquet")["audio"][0]["path"].as_py() == "audio/a1.flac"


def test_embedding_for_the_sake_of_an_outside_index_is_said(recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "elsewhere" / "index.parquet"
    result = CliRunner().invoke(prepare_app, ["folder", str(recordings), "--output", str(output)])
    assert "The index lies outside the folder of the audio, so it holds the audio itself." in result.output


def test_wrong_input_is_one_line_and_exit_code_2(recordings: Path) -> None:
    (recordings / "metadata.csv").write_text(f"{HEADER}a1,anna,[red]audio/zz.flac\n")
    result = CliRunner().invoke(prepare_app, ["folder", str(recordings)])
    assert result.exit_code == 2
    assert result.output.startswith("voxveil: metadata.csv, line 2 (utt_id 'a1'): no audio file at ")
    assert result.output.count("\n") == 1
    assert "[red]audio/zz.flac" in result.output


def test_columns_are_mapped_from_the_command_line(recordings: Path) -> None:
    (recordings / "metadata.csv").write_text("utt_id,reader,path\na1,anna,audio/a1.flac\n")
    result = CliRunner().invoke(prepare_app, ["folder", str(recordings), "--column", "speaker_id=reader"])
    assert result.exit_code == 0, result.output
    assert pq.read_table(recordings / "index.parquet")["speaker_id"].to_pylist() == ["anna"]


def test_a_mapping_without_an_equals_sign_is_refused(recordings: Path) -> None:
    result = CliRunner().invoke(prepare_app, ["folder", str(recordings), "--column", "reader"])
    assert result.exit_code == 2
    assert "is not NAME=COLUMN" in result.output


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, write_tone) -> None:
    write_tone(tmp_path / "wav" / "03a01Fa.wav")
    (tmp_path / "wav" / "notes.txt").touch()
    result = CliRunner().invoke(prepare_app, ["emodb", str(tmp_path)])
    assert "Left out: 1\n  notes.txt: not named like an EmoDB recording" in result.output
