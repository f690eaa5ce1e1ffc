"""The Anonymize operator: what an utterance becomes hangs on its samples, its id, the key, and who speaks at most."""

from typing import Any

import numpy as np
import pytest
import torch

from models.catalogue import AnonymizerSpec
from operators import anonymize
from operators.anonymize import Anonymize, VoiceLevel, fit
from operators.decode import object_array

KEY = bytes(range(32))


def batch(waves: dict[str, np.ndarray], speaker: str = "s") -> dict[str, np.ndarray]:
    return {
        "utt_id": object_array(list(waves)),
        "speaker_id": object_array([speaker] * len(waves)),
        "wave": object_array(list(waves.values())),
        "reason": object_array([""] * len(waves)),
        "detail": object_array([""] * len(waves)),
    }


@pytest.fixture
def waves(sample_wave: np.ndarray) -> dict[str, np.ndarray]:
    return {"a": sample_wave[:16_000], "b": sample_wave[8_000:20_000], "c": sample_wave[:16_000]}


def speak(waves: dict[str, np.ndarray], key: bytes = KEY, level: VoiceLevel = "utterance") -> dict[str, np.ndarray]:
    result = Anonymize(AnonymizerSpec("mcadams"), 16_000, key, level)(batch(waves))
    return dict(zip(result["utt_id"], result["wave"], strict=True))


def test_the_rest_of_the_batch_changes_nothing(waves: dict[str, np.ndarray]) -> None:
    together = speak(waves)
    for name, wave in waves.items():
        assert np.array_equal(speak({name: wave})[name], together[name])


def test_every_utterance_has_its_own_voice_unless_the_speaker_keeps_one(waves: dict[str, np.ndarray]) -> None:
    own, kept = speak(waves), speak(waves, level="speaker")
    assert not np.allclose(own["a"], own["c"])  # the same samples under two ids
    assert np.array_equal(kept["a"], kept["c"])


def test_each_speaker_is_heard_beside_what_is_usual_of_them(
    waves: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Listening:
        sample_rate = 16_000

        def draw_voice(self, seed: int) -> None: ...

        def anonymize(self, sources: list[torch.Tensor], voices: Any, seeds: Any, usual: Any) -> list[torch.Tensor]:
            told.append(usual)
            return sources

    monkeypatch.setattr(anonymize, "load_anonymizer", lambda spec, sample_rate: Listening())
    rows = batch(waves)
    rows["speaker_id"] = object_array(["x", "y", "unheard"])
    Anonymize(AnonymizerSpec("mcadams"), 16_000, KEY, "utterance", {"y": 7.5, "x": 6.5})(rows)
    Anonymize(AnonymizerSpec("mcadams"), 16_000, KEY, "utterance")(batch(waves))
    assert told == [[6.5, 7.5, None], [None] * 3]


def test_another_key_gives_other_voices(waves: dict[str, np.ndarray]) -> None:
    assert not np.allclose(speak(waves)["a"], speak(waves, key=bytes(32))["a"])


def test_a_wave_that_the_anonymizer_refuses_is_quarantined_alone(
    waves: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fussy:
        sample_rate = 16_000

        def draw_voice(self, seed: int) -> None: ...

        def anonymize(self, sources: list[torch.Tensor], voices: Any, seeds: Any, usual: Any) -> list[torch.Tensor]:
            if any(len(source) == 12_000 for source in sources):
                raise ValueError("12,000 samples are unlucky")
            return sources

    monkeypatch.setattr(anonymize, "load_anonymizer", lambda spec, rate: Fussy())
    result = Anonymize(AnonymizerSpec("mcadams"), 16_000, KEY, "utterance")(batch(waves))
    assert list(result["reason"]) == ["", "failed", ""]
    assert result["detail"][1] == "12,000 samples are unlucky"
    assert np.array_equal(result["wave"][0], waves["a"])
    assert len(result["wave"][1]) == 0


def test_output_is_as_long_as_its_source_and_within_full_scale() -> None:
    assert len(fit(np.ones(10, np.float32), 7)) == 7
    assert fit(np.ones(3, np.float32), 5).tolist() == [1, 1, 1, 0, 0]
    assert fit(np.array([2.0, -4.0], np.float32), 2).tolist() == [0.5, -1.0]


def test_an_utterance_is_heard_to_its_end_at_any_rate(sample_wave: np.ndarray) -> None:
    """The embedded network speaks as many samples as it heard, and hears otherwise than a call is heard."""
    wave = Anonymize.resample(sample_wave[:24_000], 16_000, 24_000)
    spoken = {}
    for context in ("full", "causal"):
        spec = AnonymizerSpec("streamvoiceanon", context=context)
        (spoken[context],) = Anonymize(spec, 24_000, KEY, "utterance")(batch({"a": wave}))["wave"]
        assert len(spoken[context]) == len(wave)
    assert not np.allclose(spoken["full"], spoken["causal"], atol=1e-2)


def test_who_hears_no_words_has_no_full_context() -> None:
    with pytest.raises(ValueError, match="mcadams hears no words"):
        AnonymizerSpec("mcadams", context="full").check()
    with pytest.raises(ValueError, match="reduced prosody is for streamvoiceanon: mcadams keeps all of it"):
        AnonymizerSpec("mcadams", prosody="reduced").check()
    AnonymizerSpec("mcadams", prosody="full").check()
