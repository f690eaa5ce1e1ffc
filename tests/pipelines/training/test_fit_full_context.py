"""From readers and the voices that say the same to a model that hears whole utterances."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_small import TINY_SMALL

sys.path.insert(0, str(Path(__file__).parent))

from said_again import RATE, write_corpus

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.training.full_context import Wanted
from pipelines import fit_full_context
from pipelines.pretrain import read_start
from pipelines.training.model_folder import fresh_base, read_base, write_model
from pipelines.training.recordings import read_readers


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The readers' corpus, and a model."""
    write_corpus(tmp_path)
    write_model(tmp_path / "model", fresh_base(TINY_SMALL, 0, None), {}, {"content_encoder": "as it was"})
    return tmp_path


def fit(corpus: Path, *more: str, model: str = "model") -> None:
    asked = {"--said": "again", "--pieces": "pieces", "--others": "actor", "--model": model, "--into": "whole"}
    paths = [part for name, folder in asked.items() for part in (name, str(corpus / folder))]
    fit_full_context.main([*paths, "--steps", "2", "--ways", "2", "--threads", "1", "--aside", "bert", *more])


def test_the_model_hears_whole_utterances_and_keeps_the_rest(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(corpus)
    told = capsys.readouterr().out
    assert "5 of 5 recordings heard" in told, "two of each reader's text, and the actor"
    assert all(f"held out, {kind}: " in told for kind in ("moved", "voice"))
    before, after = read_base(str(corpus / "model")), read_base(str(corpus / "whole"))
    assert replace(after.config, full_context=None) == before.config
    assert set(after.sources) - set(before.sources) == {"full_context"}
    for name, state in before.states.items():
        assert all(torch.equal(after.states[name][key], value) for key, value in state.items())
    model = StreamVoiceAnon.from_pretrained(corpus / "whole", context="full")
    assert model.encode_whole(torch.zeros(RATE)).shape == model.encode_content(torch.zeros(RATE)).shape


@pytest.mark.parametrize("threads", ["1", "2"])
def test_those_aside_are_heard_by_no_training(corpus: Path, monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    trained: list[Wanted] = []

    def learn(_: Any, corpus: list[Wanted], *__: Any) -> Iterator[float]:
        trained.extend(corpus)
        yield 0.0

    monkeypatch.setattr(fit_full_context, "fit", learn)
    fit(corpus, "--threads", threads)
    assert [len(wanted.heard) for wanted in trained] == [2, 2, 2], "anna's two and the actor"
    assert all(len(way) == 2 * len(wanted.points) for wanted in trained for way in wanted.heard)


@pytest.fixture
def hearing(corpus: Path) -> Callable[..., fit_full_context.Hearing]:
    """What is heard of anna's moved recording and of the voice that says it, then of bert's, heard in two ways."""
    recordings = [recording for recording in read_readers(corpus / "again", corpus / "pieces") if recording.wanted]
    encoder: Any = read_base(str(corpus / "model")).network("content_encoder")
    return lambda *aside: fit_full_context.Hearing(encoder, TINY_SMALL.frames, recordings, aside, 2)


def test_a_person_shall_get_what_the_voice_gets(hearing: Callable[..., fit_full_context.Hearing]) -> None:
    moved, voice = (hearing("anna")[number] for number in range(2))
    assert torch.equal(moved.points, voice.points)
    assert not torch.equal(moved.heard[0], voice.heard[0])
    assert [len(moved.heard), len(moved.points)] == [1, 25]


def test_whom_training_hears_has_silence_around_in_all_ways_alike(
    hearing: Callable[..., fit_full_context.Hearing],
) -> None:
    wanted = hearing()[0]
    assert len(wanted.points) > 25
    assert [len(way) for way in wanted.heard] == [2 * len(wanted.points)] * 2


def test_a_training_from_it_begins_without_it(corpus: Path) -> None:
    fit(corpus)
    start = read_start(str(corpus / "whole"), TINY_SMALL)
    assert "full_context" not in {**start.states, **start.sources}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--aside", "emil"), "--aside: nobody is called emil"),
        (("--aside", "anna", "bert", "carl"), "nobody is left"),
    ],
)
def test_what_cannot_be_is_one_line(corpus: Path, more: tuple[str, ...], told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        fit(corpus, *more)


def test_a_model_without_a_codebook_is_one_line(corpus: Path) -> None:
    signs = replace(TINY_SMALL, content_encoder=replace(TINY_SMALL.content_encoder, code_width=0, nearest=1))
    write_model(corpus / "other", fresh_base(signs, 0, None), {}, {})
    with pytest.raises(SystemExit, match="only codes of a codebook"):
        fit(corpus, model="other")
