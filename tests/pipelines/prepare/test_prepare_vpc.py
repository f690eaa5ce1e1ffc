"""VoicePrivacy's data folders become an index with the official trials, and nothing in them is ever run."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from operators.schema import InputError
from pipelines.prepare.cli import prepare_app
from pipelines.prepare.vpc import prepare_vpc, trials_path


@pytest.fixture
def data(tmp_path: Path, write_tone: Callable[[Path], None]) -> Path:
    """Two speakers, an enrolment folder, a trial folder and a folder of labelled emotions, as the recipe makes them."""
    folder = tmp_path / "vpc"
    tables = {
        "libri_enrolls/wav.scp": "anna-1 audio/anna-1.flac\nbert-1 audio/bert-1.flac\n",
        "libri_enrolls/utt2spk": "anna-1 anna\nbert-1 bert\n",
        "libri_enrolls/spk2utt": "anna anna-1\nbert bert-1\n",
        "libri_enrolls/spk2gender": "anna f\nbert m\n",
        "libri_enrolls/text": "anna-1 THE FIRST WORDS\n",
        "libri_enrolls/enrolls": "anna-1\nbert-1\n",
        "libri_trials/wav.scp": "anna-2 audio/anna-2.flac\n\nbert-2   audio/bert-2.flac\n",
        "libri_trials/utt2spk": "anna-2 anna\nbert-2 bert\n",
        "libri_trials/trials": "anna anna-2 target\nbert anna-2 nontarget\nbert bert-2 target\n",
        "iemocap/wav.scp": "carl-1 audio/carl 1.flac\n",
        "iemocap/utt2spk": "carl-1 carl\n",
        "iemocap/utt2emo": "carl-1 sad\n",
    }
    for name, text in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in ("anna-1", "anna-2", "bert-1", "bert-2", "carl 1"):
        write_tone(folder / "audio" / f"{name}.flac")
    return folder


def test_the_index_has_every_label_and_role(data: Path) -> None:
    prepared = prepare_vpc(data, data / "index.parquet", False)
    rows = {row["utt_id"]: row for row in pq.read_table(prepared.path).to_pylist()}
    assert (prepared.rows, prepared.speakers) == (5, 3)
    first = rows["anna-1"]
    assert (first["speaker_id"], first["text"], first["gender"]) == ("anna", "THE FIRST WORDS", "f")
    assert first["audio"]["path"] == "audio/anna-1.flac"
    assert {utt_id: row["role"] for utt_id, row in rows.items()} == {
        "anna-1": "enrolment",
        "bert-1": "enrolment",
        "anna-2": "trial",
        "bert-2": "trial",
        "carl-1": None,
    }
    assert rows["carl-1"]["emotion"] == "sad"
    assert rows["carl-1"]["audio"]["path"] == "audio/carl 1.flac"
    assert rows["bert-2"]["subset"] == "libri_trials"


def test_the_official_trials_lie_beside_the_index(data: Path) -> None:
    prepare_vpc(data, data / "index.parquet", False)
    trials = pq.read_table(data / "index.trials.parquet").to_pylist()
    assert [tuple(row.values()) for row in trials] == [
        ("anna", "anna-2", True, "libri_trials"),
        ("bert", "anna-2", False, "libri_trials"),
        ("bert", "bert-2", True, "libri_trials"),
    ]


def test_without_trial_lists_there_is_only_an_index(data: Path) -> None:
    prepare_vpc(data / "iemocap", data / "index.parquet", False, audio=data)
    assert not trials_path(data / "index.parquet").exists()


@pytest.mark.parametrize("path", ["flac -c -d -s audio/anna-1.flac |", "| touch sprung", "cat audio/anna-1.flac|"])
def test_a_command_in_place_of_a_path_is_refused_and_not_run(data: Path, path: str) -> None:
    (data / "libri_enrolls" / "wav.scp").write_text(f"anna-1 {path}\n")
    with pytest.raises(InputError, match=r"libri_enrolls/wav\.scp, line 1.*is a command, and none is run"):
        prepare_vpc(data, data / "index.parquet", False)
    assert not Path("sprung").exists()
    assert not (data / "sprung").exists()


@pytest.mark.parametrize("path", ["../outside.flac", "/etc/passwd"])
def test_a_path_that_leaves_the_folder_is_refused(data: Path, path: str) -> None:
    (data.parent / "outside.flac").touch()
    (data / "iemocap" / "wav.scp").write_text(f"carl-1 {path}\n")
    with pytest.raises(InputError, match="leaves the folder"):
        prepare_vpc(data, data / "index.parquet", False)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("libri_trials/trials", "anna nobody-9 target\n", "trials, line .: no wav.scp names the utterance nobody-9"),
        ("libri_trials/trials", "dora anna-2 nontarget\n", "speaker dora is not enrolled"),
        ("libri_trials/trials", "anna anna-2 target\nbert bert-2 target\n", "all 2 trials are target ones"),
        ("libri_trials/trials", "anna anna-2 nontarget\nbert bert-2 target\n", "contradicts the speaker"),
        ("libri_trials/trials", "anna anna-2 perhaps\n", "trials, line 1: not `speaker utterance target`"),
        ("libri_trials/trials", "anna anna-1 target\n", "both enrolled and tried"),
        ("libri_trials/utt2spk", "anna-2 anna\n", "utterance bert-2 has no speaker"),
        ("libri_trials/utt2spk", "anna-2 anna\nanna-2 bert\n", "anna-2 stands there twice"),
        ("libri_enrolls/spk2utt", "anna anna-1 bert-1\n", "gives bert-1 to somebody else than anna"),
        ("iemocap/segments", "x carl-1 0 1\n", "cut by a table `segments`"),
        ("iemocap/wav.scp", "anna-1 audio/carl 1.flac\n", "has no speaker"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(data: Path, table: str, text: str, message: str) -> None:
    (data / table).write_text(text)
    with pytest.raises(InputError, match=message):
        prepare_vpc(data, data / "index.parquet", False)
    assert not (data / "index.parquet").exists()


def test_tables_that_were_saved_on_windows_are_read_the_same(data: Path) -> None:
    before = prepare_vpc(data, data / "index.parquet", False)
    rows = pq.read_table(data / "index.parquet").to_pylist()
    for table in ("wav.scp", "utt2spk", "trials"):
        lines = (data / "libri_trials" / table).read_text().splitlines()
        (data / "libri_trials" / table).write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:], ""]).encode())
    assert prepare_vpc(data, data / "index.parquet", False).rows == before.rows
    assert pq.read_table(data / "index.parquet").to_pylist() == rows


def test_one_utterance_in_two_folders_stands_there_once(data: Path) -> None:
    (data / "libri_trials_all").mkdir()
    for table in ("wav.scp", "utt2spk"):
        (data / "libri_trials_all" / table).write_text((data / "libri_trials" / table).read_text())
    assert prepare_vpc(data, data / "index.parquet", False).rows == 5
    (data / "libri_trials_all" / "wav.scp").write_text("anna-2 audio/bert-2.flac\n")
    with pytest.raises(InputError, match="anna-2 is another one in"):
        prepare_vpc(data, data / "index.parquet", False)


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder with a wav\.scp"):
        prepare_vpc(tmp_path, tmp_path / "index.parquet", False)


def test_the_command_says_where_the_trials_lie(data: Path) -> None:
    result = CliRunner().invoke(prepare_app, ["vpc", str(data / "libri_trials"), "--audio", str(data)])
    assert result.exit_code == 2
    assert "not enrolled" in result.output
    result = CliRunner().invoke(prepare_app, ["vpc", str(data)])
    assert result.exit_code == 0, result.output
    assert f"The official trials: {data / 'index.trials.parquet'}" in result.output
