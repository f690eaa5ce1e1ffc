"""Every task through the loop, from random weights to a fine-tuned model, without Ray and MLflow: in seconds."""

import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

from test_codes_feed import write_parts

from models.streamvoiceanon import StreamVoiceAnon, VoiceBank
from operators.codes import ComputeCodes, CountFrames
from operators.decode import object_array
from operators.encode import Encode, encode_flac
from operators.schema import AUDIO_TYPE, InputError
from pipelines import pretrain
from pipelines.finetune import build_finetune, codes_columns, feed_of, same_base, teacher_of
from pipelines.finetune_evaluation import write_held_out, write_voices
from pipelines.pretrain import base_of, build_stage, prepare_stage, put_into_model
from pipelines.progress import Track
from pipelines.survey import open_index
from pipelines.training.checkpoints import load_best
from pipelines.training.feed import Batch
from pipelines.training.finetune_job import FinetuneJob, load_finetune
from pipelines.training.loop import Place, read_curve, train
from pipelines.training.model_folder import Base, read_base, write_model
from pipelines.training.prepared import Prepared, Recipe, read_prepared
from pipelines.training.pretrain_job import NETWORKS, PretrainJob, Stage, load_pretrain
from pipelines.training.samples import write_samples

TAUGHT = {"teacher": pa.list_(pa.float32()), "teacher_width": pa.int32()}
STAGES: tuple[Stage, ...] = ("content", "codec", "lm")


def waves_of(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A batch as it is after decoding and screening."""
    waves = [soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0] for row in rows]
    empty = np.array([""] * len(rows), dtype=object)
    names = object_array([row["utt_id"] for row in rows])
    return {"utt_id": names, "wave": object_array(waves), "reason": empty.copy(), "detail": empty.copy()}


def parts_of(rows: list[dict[str, Any]], batch: dict[str, np.ndarray], names: list[str]) -> list[dict[str, Any]]:
    said = ("utt_id", "speaker_id", "emotion", "text")
    drawn = np.random.default_rng(0)
    taught = [drawn.normal(size=(int(frames), 3)).astype(np.float32).flatten().tolist() for frames in batch["frames"]]
    return [
        {name: row[name] for name in said}
        | {name: batch[name][i] for name in names}
        | {"teacher": taught[i], "teacher_width": 3}
        for i, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def rows(few_rows: Callable[[int, int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return few_rows(4, 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    """The model folder after three stages, each trained for four steps."""
    output = tmp_path_factory.mktemp("stages")
    for stage in STAGES:
        job = load_pretrain(stage, "smoke", index="none", name="small", output=output)
        base = base_of(stage, job)
        prepared = job.folder(stage) / "prepared"
        prepared.mkdir(parents=True)
        if stage == "lm":
            batch, columns = ComputeCodes(str(base.folder), "cpu")(waves_of(rows)), codes_columns()
        else:
            batch = Encode(16_000)(CountFrames(base.config.frames.samples)(waves_of(rows)))
            columns = {"frames": pa.int32(), "audio": AUDIO_TYPE}
        write_parts(prepared / "parts", columns | TAUGHT, parts_of(rows, batch, list(columns)))
        task, feed = build_stage(stage, job)
        assert train(task, feed, job.training, job.folder(stage) / "training", Place()).ended == "done"
        put_into_model(stage, job, f"training of {stage}")
    return output / "small" / "model"


def test_each_stage_puts_its_network_into_the_model_and_leaves_the_others(model: Path) -> None:
    assert read_base(str(model)).sources == {
        "content_encoder": "training of content",
        "codec": "training of codec",
        "acoustic_lm": "training of lm",
    }
    spoken = StreamVoiceAnon.from_pretrained(model)
    voice = spoken.make_voice(torch.randn(16_000, generator=torch.Generator().manual_seed(0)) * 0.1)
    assert spoken.anonymize([torch.zeros(8_000)], [voice])[0].shape == (8_000,)


def test_what_a_stage_logs_is_what_its_task_wants_small(model: Path) -> None:
    expected = {"content": {"distillation", "speaker"}, "codec": {"codec.mel"}, "lm": {"acoustic"}}
    for stage, figures in expected.items():
        curve = read_curve(model.parent / "pretrain" / stage / "training")
        assert [line["step"] for line in curve] == [1, 2, 3, 4]
        assert all(figures <= line.keys() for line in curve)
        assert "validation.speaker" not in curve[-1], "speakers who were held out are not among those to forget"


def test_content_is_heard_in_another_voice_where_it_is_wanted(model: Path, rows: list[dict[str, Any]]) -> None:
    plain, changed, again = (
        ComputeCodes(str(model), "cpu", share)(waves_of(rows))["content"] for share in (0.0, 1.0, 1.0)
    )
    assert [len(codes) for codes in plain] == [len(codes) for codes in changed]
    assert any(not np.array_equal(a, b) for a, b in zip(plain, changed, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(changed, again, strict=True))


def test_content_is_heard_in_somebody_elses_voice_every_second_time(
    model: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    waves = waves_of(rows)
    name = waves["utt_id"][0]
    (tmp_path / f"{name}.flac").write_bytes(encode_flac(waves["wave"][1], 16_000))
    plain = ComputeCodes(str(model), "cpu")(dict(waves))["content"]
    drawn = ComputeCodes(str(model), "cpu", draws=3, heard=str(tmp_path))(dict(waves))["content"]
    first, other, third = drawn[0].reshape(3, -1)
    shared = min(len(plain[0]), len(plain[1])) - 1
    assert np.array_equal(first, plain[0])
    assert np.array_equal(third, plain[0])
    assert np.array_equal(other[:shared], plain[1][:shared])
    assert np.array_equal(drawn[1].reshape(3, -1), np.stack([plain[1]] * 3)), "who has no other is heard each time"


def test_an_utterance_whose_other_recording_is_damaged_is_set_aside_and_the_rest_goes_on(
    model: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    waves = waves_of(rows[:6])
    wave, names = waves["wave"][0], waves["utt_id"]
    (tmp_path / f"{names[0]}.flac").write_bytes(b"This is no sound at all.\n" * 40)
    (tmp_path / f"{names[1]}.flac").write_bytes(encode_flac(wave, 8_000))
    (tmp_path / f"{names[2]}.flac").write_bytes(encode_flac(np.stack([wave, wave], axis=1), 16_000))
    soundfile.write(tmp_path / f"{names[3]}.flac", wave[:0], 16_000, format="WAV")
    soundfile.write(tmp_path / f"{names[4]}.flac", wave * np.nan, 16_000, "FLOAT", format="WAV")
    batch = ComputeCodes(str(model), "cpu", heard=str(tmp_path))(waves)
    assert batch["reason"].tolist() == ["damaged"] * 5 + [""]
    assert all(str(tmp_path / f"{names[row]}.flac") in batch["detail"][row] for row in range(5))
    assert [len(codes) > 0 for codes in batch["content"]] == [False] * 5 + [True]


@pytest.mark.parametrize(("stage", "option", "name"), [("content", "alignments", "a.csv"), ("lm", "heard", "a.flac")])
def test_speech_prepared_with_other_files_is_refused_wherever_they_lie(
    model: Path,
    few_rows: Callable[[int, int], list[dict[str, Any]]],
    tmp_path: Path,
    write_index: Any,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage,
    option: str,
    name: str,
) -> None:
    index = write_index(tmp_path / "index.parquet", few_rows(1, 1))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("as it was")
    fields = {"teacher": "phones"} if stage == "content" else {}

    def prepared_with(folder: str) -> Recipe:
        given = fields | {option: tmp_path / folder, "start": str(model)}
        job = load_pretrain(stage, "smoke", index=str(index), name="x", output=tmp_path / "out", **given)
        return prepare_stage(stage, job, base_of(stage, job), Track(Console(quiet=True), None)).recipe

    with monkeypatch.context() as without_ray:
        without_ray.setattr(pretrain, "prepare", lambda folder, recipe, *_: Prepared(folder, recipe, 1, "f"))
        before, moved = prepared_with("one"), prepared_with("two")
    assert before == moved
    (tmp_path / "two" / name).write_text("as it is!")
    prepared = tmp_path / "out" / "x" / "pretrain" / stage / "prepared"
    prepared.mkdir(parents=True)
    (prepared / "prepared.json").write_text(json.dumps({"recipe": asdict(before)}))
    with pytest.raises(InputError, match=f"prepared from another .* of --{option}|prepared from .* other --{option}"):
        prepared_with("two")


def test_a_trunk_of_another_width_than_the_whisper_is_refused_before_all_the_work(tmp_path: Path) -> None:
    job = load_pretrain("content", "small", index="none", name="wide", output=tmp_path)
    with pytest.raises(InputError, match=r"--whisper file:FOLDER.*512"):
        base_of("content", job)


def test_alignments_are_of_no_use_to_a_teacher_of_features(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="teacher: phones"):
        load_pretrain(
            "content", "smoke", index="none", name="x", output=tmp_path, alignments=tmp_path, teacher="whisper"
        )


def test_a_stage_of_other_sizes_is_refused_and_the_language_model_comes_last(model: Path, tmp_path: Path) -> None:
    other = load_pretrain("codec", "mini", index="none", name="small", output=model.parents[1])
    with pytest.raises(InputError, match=r"other sizes than the shape \(.*acoustic_lm.width is \d+ there and 256 here"):
        base_of("codec", other)
    early = load_pretrain("lm", "smoke", index="none", name="small", output=tmp_path)
    with pytest.raises(InputError, match="`voxveil pretrain content` and `voxveil pretrain codec`"):
        base_of("lm", early)


@pytest.mark.parametrize("stage", ["codec", "lm"])
def test_a_stage_listens_to_itself_where_it_is_wanted(model: Path, tmp_path: Path, stage: Stage) -> None:
    job = load_pretrain(
        stage, "smoke", index="none", name="on", output=tmp_path, start=str(model), listening_weight=1.0
    )
    shutil.copytree(model.parent / "pretrain" / stage / "prepared", job.folder(stage) / "prepared")
    assert train(*build_stage(stage, job), job.training, job.folder(stage) / "training", Place()).ended == "done"
    heard = "codec.listening" if stage == "codec" else "listening"
    assert all(line[heard] > 0 for line in read_curve(job.folder(stage) / "training"))


def test_a_decoder_learns_beside_the_language_model_and_codes_stay(
    model: Path, rows: list[dict[str, Any]], tmp_path: Path, write_index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"index": str(write_index(tmp_path / "index.parquet", rows)), "name": "on", "output": tmp_path}
    with pytest.raises(InputError, match="needs a listening_weight"):
        load_pretrain("lm", "smoke", **options, start=str(model), decoder_learns=True)
    with pytest.raises(InputError, match="decoder_learns without start"):
        load_pretrain("lm", "smoke", **options, listening_weight=1.0, decoder_learns=True)
    asked = options | {"start": str(model), "listening_weight": 1.0, "blend": 0.5}
    job = load_pretrain("lm", "smoke", **asked, decoder_learns=True)
    steps: list[Any] = []

    def recipe_of(job: PretrainJob) -> Recipe:
        def keep(folder: Path, recipe: Recipe, *others: Any) -> Prepared:
            steps[:] = [step for step, _ in others[2]]
            return Prepared(folder, recipe, 1, "f")

        with monkeypatch.context() as without_ray:
            without_ray.setattr(pretrain, "prepare", keep)
            return prepare_stage("lm", job, base_of("lm", job), Track(Console(quiet=True), None)).recipe

    alone = recipe_of(load_pretrain("lm", "smoke", **asked))
    before = recipe_of(job)
    assert steps == [ComputeCodes, Encode]
    assert before != alone, "recordings are kept beside the codes"

    columns = codes_columns() | {"audio": AUDIO_TYPE}
    batch = Encode(16_000)(ComputeCodes(str(model), "cpu")(waves_of(rows)))
    (job.folder("lm") / "prepared").mkdir(parents=True)
    write_parts(job.folder("lm") / "prepared" / "parts", columns | TAUGHT, parts_of(rows, batch, list(columns)))
    task, feed = build_stage("lm", job)
    assert train(task, feed, job.training, job.folder("lm") / "training", Place()).ended == "done"
    assert read_curve(job.folder("lm") / "training")[-1]["validation.spectra"] > 0
    put_into_model("lm", job, "aloud")
    assert recipe_of(job) == before, "what is finished can be resumed"
    begun, made = read_base(str(model)), read_base(str(job.model))
    assert made.sources == begun.sources | {"codec": "aloud", "acoustic_lm": "aloud"}
    load_best(job.folder("lm") / "training", task.players)
    key = "head.out.weight"
    middle = (begun.states["codec"][key] + task.export()["codec"][key]) / 2
    assert not torch.equal(middle, begun.states["codec"][key])
    torch.testing.assert_close(made.states["codec"][key], middle)
    wave = torch.from_numpy(waves_of(rows)["wave"][0])
    codes = [StreamVoiceAnon.from_pretrained(folder).encode_acoustic(wave) for folder in (model, job.model)]
    assert torch.equal(*codes)


def test_a_decoder_neither_changes_its_start_nor_replaces_another(model: Path, tmp_path: Path) -> None:
    asked = {"index": "none", "listening_weight": 1.0, "decoder_learns": True}
    own = load_pretrain("lm", "smoke", name="small", output=model.parents[1], start=str(model), **asked)
    with pytest.raises(InputError, match="changed by its own training"):
        base_of("lm", own)
    base = read_base(str(model))
    write_model(tmp_path / "on" / "model", base, {}, base.sources | {"codec": "another training"})
    other = load_pretrain("lm", "smoke", name="on", output=tmp_path, start=str(model), **asked)
    with pytest.raises(InputError, match="another content encoder or codec"):
        base_of("lm", other)


def test_nobody_listens_with_random_ears(tmp_path: Path) -> None:
    job = load_pretrain("codec", "smoke", index="none", name="on", output=tmp_path, listening_weight=1.0)
    with pytest.raises(InputError, match=r"listening_weight: .* not trained yet"):
        base_of("codec", job)


def test_nothing_is_blended_with_random_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="blend without start"):
        load_pretrain("lm", "smoke", index="none", name="on", output=tmp_path, blend=0.5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_begins_from_another_model_and_leaves_it(model: Path, tmp_path: Path, stage: Stage) -> None:
    job = load_pretrain(stage, "smoke", index="none", name="on", output=tmp_path, start=str(model))
    base = base_of(stage, job)
    assert base.sources == read_base(str(model)).sources
    shutil.copytree(model.parent / "pretrain" / stage / "prepared", job.folder(stage) / "prepared")
    before = read_base(str(model)).digest
    task, feed = build_stage(stage, job)
    begun = task.export()[NETWORKS[stage]]
    assert all(torch.equal(begun[key], value) for key, value in base.states[NETWORKS[stage]].items())
    assert train(task, feed, job.training, job.folder(stage) / "training", Place()).ended == "done"
    assert not all(torch.equal(task.export()[NETWORKS[stage]][key], value) for key, value in begun.items())
    assert read_base(str(model)).digest == before

    put_into_model(stage, job, "as trained")
    trained = read_base(str(job.model)).states[NETWORKS[stage]]
    put_into_model(stage, job.model_copy(update={"blend": 0.25}), "a quarter of the way")
    for key, value in read_base(str(job.model)).states[NETWORKS[stage]].items():
        assert torch.allclose(value, begun[key] + 0.25 * (trained[key] - begun[key]), atol=1e-6)

    other = load_pretrain(stage, "mini", index="none", name="on", output=tmp_path / "other", start=str(model))
    with pytest.raises(InputError, match=r"start: .* has other sizes"):
        base_of(stage, other)


def test_a_full_shape_from_nothing_needs_speaker_encoders_from_somewhere(tmp_path: Path) -> None:
    job = load_pretrain("content", "smoke", index="none", name="full", output=tmp_path)
    shape = dict(job.shape) | {"speaker": "encoders"}  # type: ignore[arg-type]
    with pytest.raises(InputError, match="speaker_encoders"):
        base_of("content", job.model_copy(update={"shape": shape}))


def test_a_fine_tuning_learns_pairs_and_leaves_what_the_audit_needs(
    model: Path, rows: list[dict[str, Any]], tmp_path: Path, write_index: Any
) -> None:
    index = write_index(tmp_path / "index.parquet", rows)
    job = load_finetune("smoke", index=str(index), name="calm", model=str(model), output=tmp_path / "out")
    base, prepared = read_base(str(model)), job.folder / "prepared"
    prepared.mkdir(parents=True)
    columns = codes_columns()
    batch = ComputeCodes(str(model), "cpu")(waves_of(rows))
    write_parts(prepared / "parts", columns | TAUGHT, parts_of(rows, batch, list(columns)))
    recipe = Recipe("corpus", base.digest, "whisper", 16_000, 25.0, 0.5, 12.0)
    document = {"recipe": asdict(recipe), "rows": len(rows), "fingerprint": "f", "reasons": {}}
    (prepared / "prepared.json").write_text(json.dumps(document))

    task, feed = build_finetune(job)
    assert feed.settings.max_frames == base.config.acoustic_lm.max_frames
    with pytest.raises(InputError, match="sequence limit of 20"):
        feed_of(job, with_limit(base, 20), read_prepared(prepared, ""))
    asked = {"content_weight": 0.0, "delays": (2, 3), "corrupted": 0.25, "listening_weight": 0.5}
    losses = build_finetune(job.model_copy(update=asked))[0].config
    assert (losses.content_weight, losses.smallest_delay, losses.largest_delay, losses.corrupted) == (0.0, 2, 3, 0.25)
    assert losses.listening_weight == 0.5
    ending = train(task, feed, job.training, job.folder / "training", Place())
    curve = read_curve(job.folder / "training")
    assert ending.ended == "done"
    assert cut_and_resumed(job, tmp_path / "cut") == without_seconds(curve)
    assert {"acoustic", "content", "emotion", "validation.emotion"} <= set(curve[-1])

    load_best(job.folder / "training", task.players)
    write_model(job.folder / "model", base, task.export(), {})
    samples = write_samples(job.folder / "samples", str(model), job.folder / "model", feed, 1, 25.0)
    assert [file.name.rsplit("-")[-1] for file in samples] == ["before.flac", "after.flac"]
    bank = VoiceBank.load(write_voices(job, feed, 25.0))
    held_out = open_index(str(write_held_out(job, feed)))[0].to_table().to_pylist()
    trained_speakers = {utterance.speaker_id for utterance in feed.corpus.training}
    assert len(bank) == len(trained_speakers) == 2
    assert not {row["speaker_id"] for row in held_out} & trained_speakers
    original = {row["utt_id"]: row["audio"]["bytes"] for row in rows}
    assert all(row["audio"]["bytes"] == original[row["utt_id"]] for row in held_out)


def without_seconds(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in curve]


def cut_and_resumed(job: FinetuneJob, folder: Path) -> list[dict[str, float]]:
    """Return the curve of a training that failed in the middle and was resumed by others of its kind."""
    task, feed = build_finetune(job)
    read, middle = feed.batch, job.training.steps // 2 + 1

    def failing(number: int) -> Batch:
        if number >= middle * job.training.accumulation:
            raise RuntimeError("the machine went down")
        return read(number)

    feed.batch = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="went down"):
        train(task, feed, job.training, folder, Place())
    assert 0 < len(read_curve(folder)) < job.training.steps
    train(*build_finetune(job), job.training, folder, Place())
    return without_seconds(read_curve(folder))


def with_limit(base: Base, frames: int) -> Base:
    """Return the base as if its language model held sequences of at most so many frames."""
    return replace(base, config=replace(base.config, acoustic_lm=replace(base.config.acoustic_lm, max_frames=frames)))


def test_a_teacher_that_cannot_be_loaded_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: Other\n")
    uri = f"file:{tmp_path}"
    job = load_finetune("smoke", index="i", name="calm", model="m", teacher="emotion2vec", teacher_weights=uri)
    with pytest.raises(InputError, match="not an emotion2vec model"):
        teacher_of(job)
    (tmp_path / "model.pt").touch()
    spec = "{model_conf: {modalities: {audio: {feature_encoder_spec: '[(512, 10, 5)]'}}}, model: Emotion2vec}"
    (tmp_path / "config.yaml").write_text(spec)
    if importlib.util.find_spec("funasr") is None:
        with pytest.raises(InputError, match=r"pip install .voxveil\[emotion2vec\]"):
            teacher_of(job)
    else:
        assert teacher_of(job)[1] == uri


def test_speech_prepared_with_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    job = load_finetune("smoke", index="none", name="calm", model=str(model), output=tmp_path)
    recipe = Recipe("corpus", "another digest", "whisper", 16_000, 25.0, 0.5, 12.0)
    with pytest.raises(InputError, match="another model"):
        same_base(job, Prepared(tmp_path, recipe, 1, "f"))
    with pytest.raises(InputError, match="not prepared: run voxveil finetune prepare"):
        read_prepared(tmp_path, "voxveil finetune prepare")


def test_delays_out_of_order_and_frozen_codes_of_nobody_are_refused(tmp_path: Path) -> None:
    for stage, fields, complaint in (
        ("lm", {"delays": (4, 2)}, "delays are the smallest and the largest"),
        ("codec", {"frozen_codes": True}, "frozen_codes without start would freeze random codes"),
    ):
        with pytest.raises(InputError, match=complaint):
            load_pretrain(stage, "smoke", index="none", name="x", output=tmp_path, **fields)  # type: ignore[arg-type]


def test_an_encoder_with_a_codebook_is_trained_by_signs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is trained by signs, as small-signs is"):
        base_of("content", load_pretrain("content", "smoke", index="none", name="x", output=tmp_path, shape="small"))
