"""Voices: made from prompts, mixed with noise, kept in a bank, built by command."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch import Tensor
from typer.testing import CliRunner

from models.streamvoiceanon import StreamVoiceAnon, Voice, VoiceBank
from models.streamvoiceanon.voices import mix_with_noise
from pipelines.model import model_app
from pipelines.voices import build_voice_bank, voices_app


@pytest.fixture(scope="module")
def voice(tiny_model: StreamVoiceAnon, prompt_wave: Tensor) -> Voice:
    return tiny_model.make_voice(prompt_wave, voice_id="a")


def equal(first: Voice, second: Voice) -> bool:
    names = ("content", "acoustic", "style", "timbre")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_a_voice_holds_codes_style_and_timbre(voice: Voice) -> None:
    assert voice.content.shape == (48,)
    assert voice.acoustic.shape == (8, 48)
    assert voice.style.shape == (192,)
    assert voice.timbre.shape == (32, 128)


def test_several_prompts_are_one_concatenated_prompt(tiny_model: StreamVoiceAnon, prompt_wave: Tensor) -> None:
    halves = prompt_wave.split(len(prompt_wave) // 2)
    assert equal(tiny_model.make_voice(halves), tiny_model.make_voice(prompt_wave))


def test_embeddings_of_several_prompts_can_be_averaged(tiny_model: StreamVoiceAnon, prompt_wave: Tensor) -> None:
    halves = prompt_wave.split(len(prompt_wave) // 2)
    averaged = tiny_model.make_voice(halves, average=True)
    styles = [tiny_model.make_voice(half).style for half in halves]
    assert torch.allclose(averaged.style, torch.stack(styles).mean(0))
    assert torch.equal(averaged.content, tiny_model.make_voice(prompt_wave).content)


def test_a_long_prompt_is_cropped_to_512_frames(tiny_model: StreamVoiceAnon, speech) -> None:
    assert tiny_model.make_voice(speech(30.0)).frames == 512


def test_alpha_one_is_the_voice_and_zero_is_noise_of_its_mean_and_deviation(voice: Voice) -> None:
    assert mix_with_noise(voice, 1.0, None) is voice
    noise = mix_with_noise(voice, 0.0, torch.Generator().manual_seed(0))
    assert abs(float(torch.corrcoef(torch.stack([voice.style, noise.style]))[0, 1])) < 0.3
    # 4,096 draws: the sample mean is within 4 standard errors, the deviation within 5 %
    assert float(noise.timbre.mean()) == pytest.approx(
        float(voice.timbre.mean()), abs=4 * float(voice.timbre.std()) / 64
    )
    assert float(noise.timbre.std()) == pytest.approx(float(voice.timbre.std()), rel=0.05)


def test_alpha_mixes_linearly_and_by_generator(voice: Voice) -> None:
    half, noise = (mix_with_noise(voice, alpha, torch.Generator().manual_seed(3)) for alpha in (0.5, 0.0))
    assert torch.allclose(half.style, (voice.style + noise.style) / 2, atol=1e-6)
    assert equal(half, mix_with_noise(voice, 0.5, torch.Generator().manual_seed(3)))
    assert not equal(half, mix_with_noise(voice, 0.5, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(tiny_model: StreamVoiceAnon, prompt_wave: Tensor, alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be between 0"):
        tiny_model.make_voice(prompt_wave, alpha=alpha)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (torch.ones(2047) * 0.1, "shorter than one frame"),
        (torch.zeros(44_100), "silent"),
        (torch.full((44_100,), float("inf")), "not finite"),
        (torch.zeros(2, 44_100), "one channel"),
        ([], "at least one prompt"),
    ],
)
def test_a_prompt_that_is_no_voice_is_refused(tiny_model: StreamVoiceAnon, prompt: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tiny_model.make_voice(prompt)


def test_one_frame_is_enough_for_a_voice(tiny_model: StreamVoiceAnon, prompt_wave: Tensor) -> None:
    voice = tiny_model.make_voice(prompt_wave[20_000:22_048])
    assert voice.frames == 1
    assert torch.isfinite(voice.style).all()
    codes = tiny_model.generate(torch.arange(12), voice, delay=8, greedy=True)
    assert codes.shape == (8, 12)


def test_a_bank_keeps_its_voices(tmp_path: Path, voice: Voice) -> None:
    VoiceBank([voice]).save(tmp_path / "bank.parquet")
    (kept,) = VoiceBank.load(tmp_path / "bank.parquet").voices
    assert kept.voice_id == "a"
    assert equal(kept, voice)


def test_a_seed_stands_for_one_voice_and_all_voices_are_drawn(voice: Voice) -> None:
    bank = VoiceBank([Voice(voice.content, voice.acoustic, voice.style, voice.timbre, str(i)) for i in range(5)])
    drawn = [bank.draw(seed).voice_id for seed in range(200)]
    assert drawn == [bank.draw(seed).voice_id for seed in range(200)]
    assert set(drawn) == set("01234")
    assert bank.draw(2**64 - 1).voice_id in "01234"


def test_a_model_draws_from_its_bank_with_the_seeds_noise(tiny_states, tiny_model: StreamVoiceAnon, voice) -> None:
    model = StreamVoiceAnon.from_state_dicts(tiny_states, tiny_model.config, voices=VoiceBank([voice]), alpha=0.7)
    assert equal(model.draw_voice(5), model.draw_voice(5))
    assert not torch.equal(model.draw_voice(5).style, model.draw_voice(6).style)
    with pytest.raises(ValueError, match="no voice bank"):
        tiny_model.draw_voice(0)


def test_what_is_no_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="voxveil voices build"):
        VoiceBank.load(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("nothing")
    pq.write_table(pa.table({"voice_id": ["a"]}), tmp_path / "other.parquet")
    for name in ("text", "other"):
        with pytest.raises(ValueError, match="not a voice bank"):
            VoiceBank.load(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="at least one voice"):
        VoiceBank([])


@pytest.fixture
def index(tmp_path: Path, prompt_wave: Tensor, speech) -> Path:
    """Speaker a: an angry and a neutral prompt; b: an angry one; c: silence."""
    rows = []
    waves = {"a1": prompt_wave, "a2": speech(1.5), "b1": speech(1.0), "c1": torch.zeros(44_100)}
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.flac", wave.numpy(), 44_100)
        rows.append(f"{name},{name[0]},{name}.flac,{'neutral' if name in ('a2', 'c1') else 'anger'}")
    path = tmp_path / "metadata.csv"
    path.write_text("\n".join(["utt_id,speaker_id,path,emotion", *rows]) + "\n")
    return path


def test_a_bank_has_a_voice_for_every_usable_speaker(index: Path, tmp_path: Path, tiny_model: StreamVoiceAnon) -> None:
    count, left_out = build_voice_bank(index, tmp_path / "bank.parquet", tiny_model, prompts_per_voice=2, seconds=2.0)
    bank = VoiceBank.load(tmp_path / "bank.parquet")
    assert count == len(bank) == 2
    assert left_out == ["c: a prompt is silent"]
    assert [voice.frames for voice in bank.voices] == [43, 21]  # 1 s + 1 s of a, 1 s of b
    assert not any(voice.voice_id in ("a", "b") for voice in bank.voices)


def test_the_next_prompt_is_taken_where_one_cannot_be_used(
    index: Path, tmp_path: Path, tiny_model: StreamVoiceAnon
) -> None:
    heading, *lines = index.read_text().splitlines()
    silent = next(line for line in lines if line.startswith("c1,"))
    index.write_text("\n".join([heading, silent, "c2,c,b1.flac,anger"]) + "\n")
    assert build_voice_bank(index, tmp_path / "bank.parquet", tiny_model) == (1, [])


def test_a_bank_of_neutral_speech_leaves_others_out(index: Path, tmp_path: Path, tiny_model: StreamVoiceAnon) -> None:
    count, left_out = build_voice_bank(index, tmp_path / "bank.parquet", tiny_model, neutral=True)
    assert count == 1
    assert left_out == ["b: no neutral prompt", "c: a prompt is silent"]


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, tiny_model: StreamVoiceAnon) -> None:
    index = tmp_path / "metadata.csv"
    index.write_text("speaker_id,path\na,../../etc/passwd\n")
    with pytest.raises(ValueError, match="row 1: the path leaves"):
        build_voice_bank(index, tmp_path / "bank.parquet", tiny_model)


def test_prompts_may_be_bytes_in_a_parquet_index(index: Path, tmp_path: Path, tiny_model: StreamVoiceAnon) -> None:
    audio = [{"bytes": (tmp_path / "a1.flac").read_bytes(), "path": None}]
    pq.write_table(pa.table({"speaker_id": ["a"], "audio": audio}), tmp_path / "index.parquet")
    count, _ = build_voice_bank(tmp_path / "index.parquet", tmp_path / "bank.parquet", tiny_model)
    assert count == 1


def test_the_commands_build_and_list(index: Path, tmp_path: Path, tiny_model: StreamVoiceAnon, monkeypatch) -> None:
    monkeypatch.setattr(StreamVoiceAnon, "from_pretrained", lambda source, precision: tiny_model)
    bank = str(tmp_path / "bank.parquet")
    built = CliRunner().invoke(voices_app, ["build", str(index), bank])
    assert built.exit_code == 0
    assert "2 voices, 1 speakers left out" in built.output
    listed = CliRunner().invoke(voices_app, ["list", bank])
    assert listed.output.splitlines()[0] == "voice-00000    2.2 s"
    assert listed.output.splitlines()[-1] == "2 voices"


def test_the_commands_say_what_is_wrong(tmp_path: Path) -> None:
    listed = CliRunner().invoke(voices_app, ["list", str(tmp_path / "absent.parquet")])
    assert listed.exit_code == 2
    assert "no voice bank at" in listed.output
    converted = CliRunner().invoke(model_app, ["convert", str(tmp_path), str(tmp_path / "out")])
    assert converted.exit_code == 2
    assert "dual_ar_delay_0_8.pth (acoustic_lm) is missing" in converted.output
