"""`pretrain lm` whose content encoder and decoder learn beside the language model, through feed, loop and folder."""

import io
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

from test_codes_feed import write_parts
from test_stages import TAUGHT, parts_of, waves_of
from tiny_small import TINY_SMALL

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.content_encoder import likeliest
from operators.codes import ComputeCodes, FindHeard
from operators.encode import Encode, encode_flac
from operators.schema import AUDIO_TYPE, InputError
from pipelines import pretrain
from pipelines.finetune import codes_columns
from pipelines.pretrain import base_of, build_stage, prepare_stage, put_into_model
from pipelines.progress import Track
from pipelines.training import codes_feed
from pipelines.training.loop import Place, read_curve, train
from pipelines.training.model_folder import fresh_base, read_base, write_model
from pipelines.training.prepared import Prepared, Recipe
from pipelines.training.pretrain_job import PretrainJob, load_pretrain

FRAME = TINY_SMALL.frames.samples


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    sources = {"content_encoder": "content", "codec": "codec", "acoustic_lm": "lm"}
    write_model(folder, fresh_base(TINY_SMALL, 0, None), {}, sources)
    return folder


@pytest.fixture(scope="module")
def rows(few_rows: Callable[[int, int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return few_rows(3, 3)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    """What others say instead of the first rows' speakers, a little short."""
    folder, waves = tmp_path_factory.mktemp("heard"), waves_of(rows)
    for name, wave in list(zip(waves["utt_id"], waves["wave"], strict=True))[:5]:
        (folder / f"{name}.flac").write_bytes(encode_flac(wave[::-1][:-100].copy(), 16_000))
    return folder


def job_of(start: Path, heard: Path, output: Path, **fields: Any) -> PretrainJob:
    asked = {"listening_weight": 1.0, "decoder_learns": True, "encoder_learns": True, "blend": 0.5} | fields
    job = load_pretrain("lm", "smoke", index="none", name="on", output=output, start=str(start), heard=heard, **asked)
    return job.model_copy(update={"shape": asdict(TINY_SMALL)})


def prepared(job: PretrainJob, rows: list[dict[str, Any]], start: Path, heard: Path | None) -> None:
    found = FindHeard(None if heard is None else str(heard), 16_000)(waves_of(rows))
    batch = Encode(16_000)(ComputeCodes(str(start), "cpu")(found))
    columns = codes_columns(4) | {"audio": AUDIO_TYPE, "heard": AUDIO_TYPE}
    (job.folder("lm") / "prepared").mkdir(parents=True)
    write_parts(job.folder("lm") / "prepared" / "parts", columns | TAUGHT, parts_of(rows, batch, list(columns)))


def test_what_is_prepared_are_codes_as_they_are_and_whom_to_hear(
    start: Path, heard: Path, tmp_path: Path, rows: list[dict[str, Any]], write_index: Any, monkeypatch: Any
) -> None:
    steps: list[Any] = []

    def keep(folder: Path, recipe: Recipe, *others: Any) -> Prepared:
        steps[:] = others[2]
        return Prepared(folder, recipe, 1, "f")

    monkeypatch.setattr(pretrain, "prepare", keep)
    index = str(write_index(tmp_path / "index.parquet", rows))
    recipes: list[Recipe] = []
    for learns in (True, False):
        job = job_of(start, heard, tmp_path, encoder_learns=learns).model_copy(update={"index": index})
        recipes.append(prepare_stage("lm", job, base_of("lm", job), Track(Console(quiet=True), None)).recipe)
        kinds = [kind for kind, _ in steps]
        assert kinds == ([FindHeard] if learns else []) + [ComputeCodes, Encode]
        computing = dict(steps)[ComputeCodes]
        assert ("heard" in computing, computing["perturbed"]) == ((False, 0.0) if learns else (True, 0.7))
    assert recipes[0] != recipes[1]
    wider = replace(TINY_SMALL, content_encoder=replace(TINY_SMALL.content_encoder, spread=1.0))
    write_model(tmp_path / "wider", replace(read_base(str(start)), config=wider), {}, read_base(str(start)).sources)
    job = job_of(tmp_path / "wider", heard, tmp_path).model_copy(update={"index": index, "shape": asdict(wider)})
    other = prepare_stage("lm", job, base_of("lm", job), Track(Console(quiet=True), None)).recipe
    assert other.model != recipes[0].model, "shares are other numbers"


def test_the_encoder_learns_beside_the_others_and_the_codes_of_the_start_are_theirs(
    start: Path, heard: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    job = job_of(start, heard, tmp_path)
    prepared(job, rows, start, heard)
    task, feed = build_stage("lm", job)
    assert train(task, feed, job.training, job.folder("lm") / "training", Place()).ended == "done"
    assert read_curve(job.folder("lm") / "training")[-1]["validation.acoustic"] > 0
    assert put_into_model("lm", job, "aloud") == ["acoustic_lm", "codec", "content_encoder"]
    begun, made = read_base(str(start)), read_base(str(job.model))
    assert set(made.sources.values()) == {"aloud"}
    moved = {
        name for name, value in made.states["content_encoder"].items()
        if not torch.equal(value, begun.states["content_encoder"][name])
    }  # fmt: skip
    assert moved
    assert all(name.startswith("quantizer.") and "codebook" not in name for name in moved)
    wave = torch.from_numpy(waves_of(rows)["wave"][0])
    codes = [StreamVoiceAnon.from_pretrained(folder).encode_acoustic(wave) for folder in (start, job.model)]
    assert torch.equal(*codes)
    assert base_of("lm", job).sources == made.sources, "what is finished can be resumed"
    for network in ("encoder_learns", "decoder_learns"):  # the other's would be that of the former training
        with pytest.raises(InputError, match="another content encoder or codec"):
            base_of("lm", job.model_copy(update={network: False}))


def test_the_encoder_learns_alone_and_from_the_voices_themselves(
    start: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    job = load_pretrain(
        "lm", "smoke", index="none", name="on", output=tmp_path, start=str(start), encoder_learns=True
    ).model_copy(update={"shape": asdict(TINY_SMALL)})
    prepared(job, rows, start, None)
    precise = job.training.model_copy(update={"precision": "bfloat16"})
    task, feed = build_stage("lm", job)
    assert train(task, feed, precise, job.folder("lm") / "training", Place()).ended == "done"
    assert put_into_model("lm", job, "alone") == ["acoustic_lm", "content_encoder"]


def test_a_batch_holds_what_is_heard_of_its_sources(
    start: Path, heard: Path, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(start, heard, tmp_path, perturbed=0.0)
    prepared(job, rows, start, heard)
    _, feed = build_stage("lm", job)
    spoken = StreamVoiceAnon.from_pretrained(start)
    for share, somebody in ((0.0, False), (1.0, True)):
        monkeypatch.setattr(codes_feed, "HEARD", share)
        for number in range(3):
            batch = feed.batch(number)
            for row, pair in enumerate(feed.pairs(number)):
                length = int(batch["lengths"][row] - batch["prompt_lengths"][row])
                other = somebody and (heard / f"{pair.source}.flac").exists()
                expected = wave_of(rows, pair.source)
                if other:
                    instead, _ = soundfile.read(heard / f"{pair.source}.flac", dtype="float32")
                    expected = np.pad(instead, (0, len(expected) - len(instead)))
                frames = len(expected) // FRAME
                expected = expected[: frames * FRAME].reshape(frames, FRAME)[frames - length :]
                np.testing.assert_array_equal(batch["heard"][row, :length].numpy(), expected)
                plain = likeliest(spoken.encode_content(torch.from_numpy(wave_of(rows, pair.source))))[:frames]
                first = int(batch["prompt_lengths"][row])
                said = batch["content"][row, first : first + length]
                assert torch.equal(said % 32, plain[frames - length :] % 32), "the pitch stays the voice's"


def wave_of(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    (row,) = (row for row in rows if row["utt_id"] == name)
    return soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0]


def test_whoever_cannot_be_heard_is_set_aside(heard: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    waves = waves_of(rows[:2])
    (tmp_path / f"{rows[0]['utt_id']}.flac").write_bytes(b"This is no sound at all.\n" * 40)
    found = FindHeard(str(tmp_path), 16_000)(waves)
    assert found["reason"].tolist() == ["damaged", ""]
    assert [row["bytes"] for row in found["heard"]] == [None, None]
    assert [row["bytes"] for row in FindHeard(None, 16_000)(waves_of(rows[:2]))["heard"]] == [None, None]


def test_an_encoder_learns_of_somebody_and_hears_several_codes(start: Path, heard: Path, tmp_path: Path) -> None:
    asked = {"index": "none", "name": "on", "output": tmp_path, "listening_weight": 1.0, "encoder_learns": True}
    with pytest.raises(InputError, match="encoder_learns without start"):
        load_pretrain("lm", "smoke", **asked, heard=heard)
    with pytest.raises(InputError, match="leave draws out"):
        load_pretrain("lm", "smoke", **asked, start=str(start), heard=heard, draws=2)
    one = replace(TINY_SMALL, content_encoder=replace(TINY_SMALL.content_encoder, nearest=1))
    write_model(tmp_path / "one", fresh_base(one, 0, None), {}, read_base(str(start)).sources)
    job = job_of(tmp_path / "one", heard, tmp_path).model_copy(update={"shape": asdict(one)})
    with pytest.raises(InputError, match=r"encoder_learns: .* one code at once"):
        base_of("lm", job)
