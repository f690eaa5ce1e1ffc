"""From readers and the voices that say the same to an encoder that hears them alike, within a model that speaks."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_fit_codebook import TINY

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.content_encoder import likeliest
from models.streamvoiceanon.training.matching import Told
from models.streamvoiceanon.training.shared_codes import CODEBOOK
from pipelines import match_codes
from pipelines.training.model_folder import fresh_base, read_base, write_model
from pipelines.training.recordings import read_readers, read_wave

RATE = 16_000
READERS = ("anna", "bert")


def write_table(folder: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Two readers' pieces and what voices say of them, one of which does not fit; and an actor at another rate."""
    random = np.random.default_rng(0)
    for folder in ("pieces/audio", "again/audio", "again/heard", "again/alignments", "again/told", "actor/audio"):
        (tmp_path / folder).mkdir(parents=True)
    pieces, said = [], []
    for number, reader in enumerate((*READERS, "anna")):
        name = f"{reader}-{number}"
        files = [tmp_path / "pieces/audio" / f"{name}.flac", tmp_path / "again/audio" / f"{name}.flac"]
        if number < 2:
            files.append(tmp_path / "again/heard" / f"{name}.flac")
        for path in files:
            soundfile.write(path, 0.1 * random.standard_normal(RATE), RATE)
        for folder in ("alignments", "told"):
            (tmp_path / "again" / folder / f"{name}.csv").write_text(",0.2\ns,0.5\n\u0259,1.0\n", encoding="utf-8")
        pieces.append((name, reader, f"audio/{name}.flac"))
        said.append((name, "v01", f"audio/{name}.flac", f"audio/{name}.flac"))
    write_table(tmp_path / "pieces", ("utt_id", "speaker_id", "path"), pieces)
    write_table(tmp_path / "again", ("utt_id", "speaker_id", "path", "heard"), said)
    soundfile.write(tmp_path / "actor/audio/a.flac", 0.1 * random.standard_normal(22_050), 22_050)
    write_table(tmp_path / "actor", ("utt_id", "speaker_id", "path"), [("a", "carl", "audio/a.flac")])
    write_model(tmp_path / "model", fresh_base(TINY, 0, None), {}, {"content_encoder": "as it was"})
    return tmp_path


def arguments(speech: Path, *more: str) -> list[str]:
    asked = {"--said": "again", "--pieces": "pieces", "--others": "actor", "--model": "model", "--into": "matched"}
    paths = [part for name, folder in asked.items() for part in (name, str(speech / folder))]
    return [*paths, "--steps", "2", "--ways", "2", "--threads", "1", "--aside", "bert", *more]


def test_the_model_gets_another_encoder_and_keeps_the_rest(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    match_codes.main(arguments(speech))
    told = capsys.readouterr().out
    assert "7 of 7 recordings heard" in told, "three of each reader's text that fits, and the actor"
    assert "before, readers" in told
    assert "after, voices" in told
    before, after = read_base(str(speech / "model")), read_base(str(speech / "matched"))
    assert after.config == before.config
    assert after.sources["content_encoder"] != before.sources["content_encoder"]
    assert torch.equal(after.states["content_encoder"][CODEBOOK], before.states["content_encoder"][CODEBOOK])
    other = before.states["acoustic_lm"]
    assert all(torch.equal(after.states["acoustic_lm"][name], value) for name, value in other.items())


def test_frames_have_the_codes_of_the_voice_and_the_phonemes_of_the_alignment(speech: Path) -> None:
    recordings = [*read_readers(speech / "again", speech / "pieces")]
    assert [(r.kind, r.speaker) for r in recordings] == [
        (kind, reader) for reader in READERS for kind in ("piece", "moved", "voice")
    ]
    base = read_base(str(speech / "model"))
    encoder = base.network("content_encoder")
    hearing = match_codes.Hearing(encoder, TINY.frames, recordings, ["", "s", "\u0259"], ["bert"], 3)
    piece, moved, voice = (hearing[number] for number in range(3))
    assert (piece.codes == -100).all()
    assert torch.equal(moved.codes, voice.codes)
    whole = StreamVoiceAnon.from_pretrained(speech / "model", precision="float32").encode_content(
        torch.from_numpy(read_wave(recordings[2].path, TINY.frames))
    )
    assert torch.equal(voice.codes, likeliest(whole) // TINY.content_encoder.pitch_codes)
    assert voice.phones.tolist() == [0] * 5 + [1] * 7 + [2] * 13
    assert [len(moved.heard), len(hearing[4].heard)] == [3, 1], "whom no training hears is heard as he is"


@pytest.mark.parametrize("threads", ["1", "2"])
def test_those_aside_are_heard_by_no_training(speech: Path, monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    trained: list[Told] = []
    knew: list[torch.Tensor] = []

    def fit(_: Any, corpus: list[Told], *__: Any) -> Iterator[tuple[float, float]]:
        trained.extend(corpus)
        yield 0.0, 0.0

    def phones_of_codes(codebook: torch.Tensor, codes: torch.Tensor, *_: Any) -> torch.Tensor:
        knew.append(codes)
        return torch.ones(len(codebook), 50)

    monkeypatch.setattr(match_codes, "fit", fit)
    monkeypatch.setattr(match_codes, "phones_of_codes", phones_of_codes)
    match_codes.main(arguments(speech, "--threads", threads))
    assert len(trained) == 4, "anna's three and the actor"
    assert all(len(told.heard) == 2 for told in trained)
    assert len(knew[0]) == len(trained[2].codes), "of anna's voice alone"


def test_a_name_that_nobody_has_is_refused(speech: Path) -> None:
    with pytest.raises(SystemExit, match="--aside: nobody is called emil"):
        match_codes.main(arguments(speech, "--aside", "bert", "emil"))


def test_nothing_to_learn_from_is_one_line(speech: Path) -> None:
    with pytest.raises(SystemExit, match="no text fits"):
        match_codes.main(arguments(speech, "--aside", *READERS))


def test_several_channels_are_refused(speech: Path) -> None:
    soundfile.write(speech / "pieces/audio/anna-0.flac", np.zeros((RATE, 2)), RATE)
    with pytest.raises(SystemExit, match=r"anna-0\.flac: 2 channels"):
        match_codes.main(arguments(speech))
