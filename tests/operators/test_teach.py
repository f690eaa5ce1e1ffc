"""Teach: a teacher's frames, at the frame rate of the codes, beside each usable wave."""

from pathlib import Path

import numpy as np

from models.phones import TRUST, PhoneHead
from models.registry import PHONES, resolve
from models.streamvoiceanon.training.teachers import PROSODY
from operators.decode import object_array
from operators.teach import TEACHERS, Teach


def batch_of(waves: list[np.ndarray], counts: np.ndarray) -> dict[str, np.ndarray]:
    said = {"utt_id": object_array(["a", "b"]), "reason": object_array(["", "empty"])}
    said["detail"] = object_array(["", "0 bytes"])
    return said | {"wave": object_array(waves), "frames": counts}


def test_phonemes_and_prosody_come_at_the_rate_of_the_codes(sample_wave: np.ndarray) -> None:
    teach = Teach("phones", TEACHERS["phones"].weights or "", 16_000, 25.0, "cpu")
    waves = [sample_wave, np.zeros(0, np.float32)]
    counts = np.array([len(sample_wave) // 640, 0])
    batch = teach(batch_of(waves, counts))
    phones = len(PhoneHead.load(resolve(PHONES).path).phones)
    assert batch["teacher_width"].tolist() == [phones + PROSODY] * 2
    frames = batch["teacher"][0].reshape(counts[0], -1)
    assert np.allclose(frames[:, :phones].sum(1), 1.0, atol=1e-4)
    assert 0.0 < frames[:, phones].mean() < 1.0, "some of it is voiced"
    assert len(batch["teacher"][1]) == 0


def test_where_an_alignment_says_what_was_said_the_teacher_mostly_says_so(
    sample_wave: np.ndarray, tmp_path: Path
) -> None:
    heard = batch_of([sample_wave, np.zeros(0, np.float32)], np.array([len(sample_wave) // 640, 0]))
    weights = TEACHERS["phones"].weights or ""
    before = Teach("phones", weights, 16_000, 25.0, "cpu")(dict(heard))["teacher"][0]
    (tmp_path / "a.csv").write_text(f"m,0.4\nunknown,{len(sample_wave) / 16_000}\n")
    teach = Teach("phones", weights, 16_000, 25.0, "cpu", str(tmp_path))
    after = teach(dict(heard))["teacher"][0]
    frames = len(sample_wave) // 640
    before, after = before.reshape(frames, -1), after.reshape(frames, -1)
    place = PhoneHead.load(resolve(PHONES).path).phones.index("m")
    assert np.allclose(after[:10, place], TRUST + (1 - TRUST) * before[:10, place], atol=1e-5)
    assert np.allclose(after[10:], before[10:], atol=1e-5), "what is unknown is as the teacher hears it"
    assert np.allclose(after[:, -PROSODY:], before[:, -PROSODY:])
    hostile = teach.corrected(np.ones((3, 2), np.float32), f"../{tmp_path.name}/a")
    assert np.array_equal(hostile, np.ones((3, 2))), "an id is no path"


def test_an_utterance_whose_alignment_is_damaged_is_set_aside_and_the_rest_goes_on(
    sample_wave: np.ndarray, tmp_path: Path
) -> None:
    frames = len(sample_wave) // 640
    batch = batch_of([sample_wave, sample_wave], np.array([frames, frames]))
    batch["reason"][1] = ""
    (tmp_path / "a.csv").write_text("m,soon\n")
    taught = Teach("phones", TEACHERS["phones"].weights or "", 16_000, 25.0, "cpu", str(tmp_path))(batch)
    assert taught["reason"].tolist() == ["damaged", ""]
    assert str(tmp_path / "a.csv") in taught["detail"][0]
    width = taught["teacher_width"][1]
    assert [len(told) for told in taught["teacher"]] == [0, frames * width]
