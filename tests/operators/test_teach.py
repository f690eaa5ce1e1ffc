"""Teach: a teacher's frames, at the frame rate of the codes, beside each usable wave."""

import numpy as np

from models.phones import PhoneHead
from models.registry import PHONES, resolve
from models.streamvoiceanon.training.teachers import PROSODY
from operators.decode import object_array
from operators.teach import TEACHERS, Teach


def test_phonemes_and_prosody_come_at_the_rate_of_the_codes(sample_wave: np.ndarray) -> None:
    teach = Teach("phones", TEACHERS["phones"].weights or "", 16_000, 25.0, "cpu")
    waves = [sample_wave, np.zeros(0, np.float32)]
    counts = np.array([len(sample_wave) // 640, 0])
    batch = teach({"wave": object_array(waves), "frames": counts, "reason": np.array(["", "empty"])})
    phones = len(PhoneHead.load(resolve(PHONES).path).phones)
    assert batch["teacher_width"].tolist() == [phones + PROSODY] * 2
    frames = batch["teacher"][0].reshape(counts[0], -1)
    assert np.allclose(frames[:, :phones].sum(1), 1.0, atol=1e-4)
    assert 0.0 < frames[:, phones].mean() < 1.0, "some of it is voiced"
    assert len(batch["teacher"][1]) == 0
