"""Feeds: which prepared speech a batch holds, and that it holds the same wherever it is read."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from small_base import write_small_base

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.shapes import SMALL
from operators.encode import encode_flac
from operators.schema import AUDIO_TYPE, InputError
from pipelines.finetune import codes_columns, described
from pipelines.training.codes_feed import CodesFeed, PairSettings, check_labels
from pipelines.training.finetune_job import load_finetune, sizes
from pipelines.training.model_folder import read_base, write_model
from pipelines.training.pairs import Spoken
from pipelines.training.prepared import Prepared, Recipe, schema_of
from pipelines.training.pretrain_job import Stage, load_pretrain
from pipelines.training.run_folder import begin
from pipelines.training.waves_feed import WavesFeed

SETTINGS = PairSettings("emotional", "emotional", None, 10, 0.3, 4, 0, 768)


def write_parts(folder: Path, columns: dict[str, pa.DataType], rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    schema = schema_of(columns)
    blank = {"view": "prepared", "text": "", "audio_digest": "", "reason": "", "detail": ""}
    for number in range(0, len(rows), 5):
        table = pa.Table.from_pylist([blank | row for row in rows[number : number + 5]], schema=schema)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=1)
    return folder


def codes_row(speaker: int, emotion: str, number: int) -> dict[str, Any]:
    frames = 15 + number
    name = f"s{speaker}-{emotion}-{number}"
    codes = {"content": [speaker] * frames, "acoustic": [*[number] * frames, *[speaker] * frames], "frames": frames}
    voice = {"style": [float(number)] * 4, "timbre": [0.5] * 6, "timbre_latents": 2}
    return {"utt_id": name, "speaker_id": f"s{speaker}", "emotion": emotion, **codes, **voice} | {
        "teacher": [float(i) for i in range(frames) for _ in range(3)],
        "teacher_width": 3,
    }


def test_a_training_item_has_one_of_the_contents_that_were_drawn(tmp_path: Path) -> None:
    rows = [codes_row(speaker, emotion, 0) for speaker in range(3) for emotion in ("neutral", "sad")]
    for row in rows:
        row["content"] = [draw for draw in (7, 8, 9) for _ in range(row["frames"])]
    feed = CodesFeed(write_parts(tmp_path / "parts", codes_columns(), rows), SETTINGS, 2, teacher=False)
    seen = {int(code) for number in range(12) for code in feed.batch(number)["content"][:, 0]}
    assert seen == {7, 8, 9}
    assert {int(code) for batch in feed.validation() for code in batch["content"].unique()} <= {0, 7}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    rows = [codes_row(s, emotion, n) for s in range(5) for emotion in ("neutral", "happy", "sad") for n in range(3)]
    rows.append(rows[0] | {"utt_id": "broken", "reason": "silent", "frames": 0})
    rows.append(rows[3])  # a retried batch wrote a row twice
    columns = codes_columns() | {"teacher": pa.list_(pa.float32()), "teacher_width": pa.int32()}
    return write_parts(tmp_path / "parts", columns, rows)


def test_a_batch_is_the_same_in_another_process_and_holds_prompts_then_sources(parts: Path) -> None:
    feed, again = (CodesFeed(parts, SETTINGS, 3, teacher=True) for _ in range(2))
    for number in (0, 4, 17):
        batch, other = feed.batch(number), again.batch(number)
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[key], other[key]) for key in batch)
        for row, pair in enumerate(feed.pairs(number)):
            prompt, source = (int(name[-1]) for name in (pair.prompt, pair.source))
            assert batch["prompt_lengths"][row] == 10
            assert batch["lengths"][row] == 10 + 15 + source
            assert batch["acoustic"][row, 0, :10].tolist() == [prompt] * 10
            assert batch["acoustic"][row, 0, 10 : 25 + source].tolist() == [source] * (15 + source)
            assert batch["style"][row].tolist() == [float(prompt)] * 4
            assert batch["teacher"][row, : 15 + source, 0].tolist() == list(range(15 + source))
            assert pair.source in feed.names(number)[row]


def test_nobody_is_both_trained_on_and_held_out_and_an_epoch_reads_every_source(parts: Path) -> None:
    feed = CodesFeed(parts, SETTINGS, 1, teacher=True)
    held_out = {utterance.speaker_id for utterance in feed.corpus.validation}
    trained = [feed.pairs(number)[0] for number in range(feed.count)]
    assert len(held_out) == 2
    assert not held_out & {pair.source.split("-")[0] for pair in trained}
    emotional = {u.utt_id for u in feed.corpus.training if u.emotion != "neutral"}
    assert {pair.source for pair in trained} == emotional
    assert {pair.source.split("-")[0] for pair in feed.validation_pairs()} <= held_out
    assert sum(len(batch["lengths"]) for batch in feed.validation()) == 4
    assert "broken" not in feed.rows.spoken


def test_those_are_held_out_who_were_named(parts: Path) -> None:
    feed = CodesFeed(parts, replace(SETTINGS, validation_speakers=("s1",)), 2, True)
    assert {utterance.speaker_id for utterance in feed.corpus.validation} == {"s1"}
    assert "s1" not in {utterance.speaker_id for utterance in feed.corpus.training}
    assert len({utterance.speaker_id for utterance in feed.corpus.training}) > 1


def test_without_a_teacher_nothing_of_it_is_read(parts: Path) -> None:
    assert "teacher" not in CodesFeed(parts, SETTINGS, 2, teacher=False).batch(0)


def test_an_utterance_that_is_its_own_prompt_is_cut_after_a_third(tmp_path: Path) -> None:
    rows = [codes_row(s, "neutral", 0) for s in range(3)]
    own = PairSettings("speaker", "speaker", None, 100, 0.3, 4, 0, 768)
    batch = CodesFeed(write_parts(tmp_path / "own", codes_columns(), without_teacher(rows)), own, 2, False).batch(0)
    assert batch["prompt_lengths"].tolist() == [5, 5]
    assert batch["lengths"].tolist() == [15, 15]


def without_teacher(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith("teacher")} for row in rows]


def test_crops_of_waves_and_their_teacher_begin_at_the_same_frame(tmp_path: Path) -> None:
    frame = 100
    rows = []
    for speaker in range(4):
        wave = np.repeat(np.arange(12) / 16, frame).astype(np.float32)[: 12 * frame - 30]
        audio = {"bytes": encode_flac(wave, 16_000), "path": None}
        teacher = [float(number) for number in range(12) for _ in range(2)]
        row = {"utt_id": f"u{speaker}", "speaker_id": f"s{speaker}", "emotion": None, "audio": audio, "frames": 12}
        row |= {"text": "yes"}
        rows.append(row | {"teacher": teacher, "teacher_width": 2})
    columns = {
        "frames": pa.int32(),
        "audio": AUDIO_TYPE,
        "teacher": pa.list_(pa.float32()),
        "teacher_width": pa.int32(),
    }
    parts = write_parts(tmp_path / "waves", columns, rows)
    frames = FrameConfig(sample_rate=16_000, window=100, hop=50, halvings=1)
    feed = WavesFeed(parts, frames, 5, 3, True, 0.0, 0.3, 8, 0)
    begins = set()
    for number in range(8):
        batch = feed.batch(number)
        assert torch.equal(batch["samples"], feed.batch(number)["samples"])
        heard = (batch["samples"][:, ::frame] * 16).round()
        assert torch.equal(heard, batch["teacher"][..., 0])
        begins |= set(heard[:, 0].tolist())
    assert len(begins) > 3
    assert [len(batch["lengths"]) for batch in feed.validation()] == [1]
    assert feed.validation()[0]["lengths"].tolist() == [10 * frame]

    assert batch["letter_counts"].tolist() == [0, 0, 0]  # a part of an utterance says nobody knows which letters
    whole = WavesFeed(parts, frames, 12, 3, True, 0.0, 0.3, 8, 0).batch(0)
    assert whole["letter_counts"].tolist() == [3, 3, 3]

    perturbed = WavesFeed(parts, frames, 5, 3, True, 1.0, 0.3, 8, 0)
    plain, changed = feed.batch(0), perturbed.batch(0)
    assert not torch.equal(plain["samples"], changed["samples"])
    assert torch.equal(changed["samples"], perturbed.batch(0)["samples"])
    assert torch.equal(plain["teacher"], changed["teacher"])
    assert torch.equal(plain["speaker"], changed["speaker"])
    assert set(changed["speaker"].tolist()) <= set(range(3))
    assert torch.equal(feed.validation()[0]["samples"], perturbed.validation()[0]["samples"])


def test_labels_are_checked_before_anything_is_computed() -> None:
    spoken = [Spoken(f"{s}-{e}", s, e, "", 9999) for s in "ab" for e in ("neutral", "anger", "boredom")]
    known = PairSettings("emotional", "emotional", ("neutral", "angry"), 10, 0.3, 4, 0, 768)
    corpus = check_labels(spoken, known)
    assert corpus.unknown == ["boredom"]
    with pytest.raises(InputError, match="1 speaker"):
        check_labels([row for row in spoken if row.speaker_id == "a"], known)


def test_every_built_in_configuration_is_complete() -> None:
    assert sizes("finetune") == ("full", "mini", "small", "smoke")
    for size in sizes("finetune"):
        assert load_finetune(size, index="i", name="n", model="m").training.steps > 0
    stages: tuple[Stage, ...] = ("content", "codec", "lm")
    for stage in stages:
        further = {"codec": {"small-adversarial", "small-heard", "small-acted"}, "lm": {"small-aloud"}}.get(
            stage, set()
        )
        assert set(sizes(f"pretrain-{stage}")) == {"full", "mini", "small", "smoke"} | further
        for size in sizes(f"pretrain-{stage}"):
            assert load_pretrain(stage, size, index="i", name="n", start="s").sizes().acoustic_lm.width > 0


def test_the_small_fine_tuning_fits_the_weights_that_come_with_the_project() -> None:
    job = load_finetune("small", index="i", name="n", model="m")
    frames = sum(math.ceil(seconds / SMALL.frames.seconds) for seconds in (job.prompt_seconds, job.max_seconds))
    assert frames <= SMALL.acoustic_lm.max_frames
    assert job.delays == (SMALL.acoustic_lm.delay,) * 2


def test_a_configuration_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="full, mini, small, smoke"):
        load_finetune("medium", index="i", name="n", model="m")
    with pytest.raises(InputError, match="model: is missing"):
        load_finetune("smoke", index="i", name="n")
    with pytest.raises(InputError, match="needs teacher_weights"):
        load_finetune("smoke", index="i", name="n", model="m", teacher="emotion2vec")
    with pytest.raises(InputError, match=r"delays.*from 0 to 8 frames"):
        load_finetune("smoke", index="i", name="n", model="m", delays=(3, 2))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("training: {steps: 0}\n")
    with pytest.raises(InputError, match=r"training\.steps"):
        load_finetune(str(wrong), index="i", name="n", model="m")


def test_workers_find_the_folders_whatever_their_working_directory(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    job = load_finetune("smoke", index="i", name="n", model="base")
    assert (job.model, job.output) == (str(tmp_path / "base"), tmp_path / "voxveil-out")
    assert load_finetune("smoke", index="i", name="n", model="Plachta/StreamVoiceAnon").model.startswith("Plachta")
    with pytest.raises(InputError, match="URI"):
        load_finetune("smoke", index="i", name="n", model="m", output="s3://bucket/out")


def test_a_training_is_neither_begun_anew_nor_resumed_as_another(tmp_path: Path) -> None:
    begun = begin(tmp_path, {"rate": 1}, False, "run")
    assert begin(tmp_path, {"rate": 1}, True, "run") == begun
    with pytest.raises(InputError, match="--resume goes on"):
        begin(tmp_path, {"rate": 1}, False, "run")
    with pytest.raises(InputError, match="rate changed"):
        begin(tmp_path, {"rate": 2}, True, "run")
    with pytest.raises(InputError, match="no training"):
        begin(tmp_path / "none", {"rate": 1}, True, "run")


def test_a_training_from_before_speakers_could_be_named_goes_on() -> None:
    job = load_finetune("smoke", index="i", name="n", model="m")
    recipe = Recipe("c", "m", "t", 16_000, 25.0, 0.5, 20.0)
    prepared = Prepared(Path("p"), recipe, 1, "f")
    assert "validation_speakers" not in described(job, prepared)
    named = job.model_copy(update={"validation_speakers": ("s1",)})
    assert described(named, prepared)["validation_speakers"] == ["s1"]


def test_weights_of_another_contract_are_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    base = write_small_base(tmp_path / "base")
    with pytest.raises(InputError, match="do not fit the base"):
        write_model(tmp_path / "made", base, {"acoustic_lm": {"embedding.weight": torch.zeros(3, 3)}}, {})
    (tmp_path / "base" / "streamvoiceanon.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="base model cannot be used"):
        read_base(str(tmp_path / "base"))
    with pytest.raises(InputError, match="no folder"):
        read_base(str(tmp_path / "missing"))


def test_an_export_has_the_names_and_shapes_of_its_base_and_loads_as_it(tmp_path: Path) -> None:
    base = write_small_base(tmp_path / "base")
    changed = {key: value + 1 for key, value in base.states["acoustic_lm"].items()}
    extra = {"decoder.model.norm.weight": torch.ones(32), "decoder.model.output.weight": torch.ones(64, 32)}
    write_model(tmp_path / "made", base, {"acoustic_lm": changed | extra}, {"acoustic_lm": "training"})
    made = read_base(str(tmp_path / "made"))
    assert made.sources == {"acoustic_lm": "training"}
    for name, state in base.states.items():
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in made.states[name].items()}
    for key, value in base.states["codec"].items():
        assert torch.equal(made.states["codec"][key], value)
    StreamVoiceAnon.from_pretrained(tmp_path / "made")


def test_by_length_batches_are_alike_and_every_epoch_still_reads_every_source_once(parts: Path) -> None:
    settings = replace(SETTINGS, pairing="speaker", by_length=True)
    feed = CodesFeed(parts, settings, 4, teacher=True)
    read = [pair.source for number in range(feed.count) for pair in feed.pairs(number)]  # four epochs
    for epoch in range(4):
        assert len(set(read[epoch * feed.count : (epoch + 1) * feed.count])) == feed.count
    frames = [[feed.rows.spoken[pair.source].frames for pair in feed.pairs(number)] for number in range(feed.count)]
    apart = [max(lengths) - min(lengths) for lengths in frames]
    drawn = CodesFeed(parts, replace(settings, by_length=False), 4, teacher=True)
    others = [[drawn.rows.spoken[pair.source].frames for pair in drawn.pairs(number)] for number in range(feed.count)]
    assert sum(apart) < sum(max(lengths) - min(lengths) for lengths in others) / 2


def test_a_source_that_begins_within_keeps_codes_and_teacher_together(parts: Path) -> None:
    whole, begun = (CodesFeed(parts, replace(SETTINGS, begun=share), 3, teacher=True) for share in (0.0, 1.0))
    firsts = set()
    for number in range(6):
        before, after = whole.batch(number), begun.batch(number)
        assert torch.equal(before["prompt_lengths"], after["prompt_lengths"])
        for row in range(3):
            length = int(after["lengths"][row] - after["prompt_lengths"][row])
            first = int(after["teacher"][row, 0, 0])
            firsts.add(first)
            assert first + length == int(before["lengths"][row] - before["prompt_lengths"][row])
            assert after["teacher"][row, :length, 0].tolist() == list(range(first, first + length))
    assert len(firsts) > 3
