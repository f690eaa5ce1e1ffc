"""From readers and the voices that say the same to an encoder that hears them alike, within a model that speaks."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent))

from said_again import RATE, READERS, write_corpus
from test_fit_codebook import TINY

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.content_encoder import likeliest
from models.streamvoiceanon.training.matching import Told
from models.streamvoiceanon.training.shared_codes import CODEBOOK
from pipelines import match_codes
from pipelines.training.model_folder import fresh_base, read_base, write_model
from pipelines.training.recordings import read_readers, read_wave


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """The corpus, and a model."""
    write_corpus(tmp_path)
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
