"""Decoding and screening: what works, what is refused, and the reason that a row is given."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from operators.decode import Decode, find_beside
from operators.schema import QUARANTINE_REASONS
from operators.screen import Screen

RATE = 16_000


def encode(samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def outcome(folder: Path, audio: dict[str, Any] | None) -> tuple[str, np.ndarray]:
    """Decode and screen one row and return its reason and its wave."""
    batch = {"utt_id": np.array(["a"], dtype=object), "audio": np.array([audio], dtype=object)}
    decoded = Screen(RATE, min_seconds=0.5)(Decode(str(folder), RATE, max_seconds=20)(batch))
    assert decoded["reason"][0] == "" or decoded["reason"][0] in QUARANTINE_REASONS
    return decoded["reason"][0], decoded["wave"][0]


@pytest.mark.parametrize(
    ("rate", "channels", "kind", "subtype"),
    [
        (16_000, 2, "WAV", "PCM_16"),
        (8_000, 1, "WAV", "PCM_16"),
        (48_000, 1, "WAV", "PCM_24"),
        (44_100, 2, "WAV", "FLOAT"),
        (22_050, 1, "FLAC", "PCM_24"),
        (16_000, 1, "OGG", "VORBIS"),
    ],
)
def test_common_formats_are_read_as_mono_at_the_job_rate(
    tmp_path: Path, sample_wave: np.ndarray, rate: int, channels: int, kind: str, subtype: str
) -> None:
    import soxr

    source = soxr.resample(sample_wave, RATE, rate)
    encoded = encode(np.stack([source] * channels, axis=1), rate, subtype, kind)
    reason, wave = outcome(tmp_path, {"bytes": encoded, "path": None})
    assert reason == ""
    assert wave.dtype == np.float32
    # Resampling there and back may differ by a sample of rounding.
    assert abs(len(wave) - len(sample_wave)) <= 2
    shorter = min(len(wave), len(sample_wave))
    assert np.corrcoef(wave[:shorter], sample_wave[:shorter])[0, 1] > 0.95


def test_audio_is_found_beside_the_index(tmp_path: Path, sample_wave: np.ndarray) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(encode(sample_wave))
    assert outcome(tmp_path, {"bytes": None, "path": "audio/a.wav"})[0] == ""


def test_a_path_that_is_too_long_for_the_system_is_not_repeated(tmp_path: Path) -> None:
    decoded = Decode(str(tmp_path), RATE, 30.0)({"utt_id": ["a"], "audio": [{"bytes": None, "path": "x" * 5000}]})
    assert (decoded["reason"][0], len(decoded["detail"][0]) < 40) == ("file_missing", True)


@pytest.mark.parametrize("path", ["../secret.wav", "audio/../../secret.wav", "/etc/passwd", "a\\..\\b.wav"])
def test_a_path_that_leaves_the_folder_is_refused_unopened(tmp_path: Path, sample_wave: np.ndarray, path: str) -> None:
    inside = tmp_path / "corpus"
    inside.mkdir()
    (tmp_path / "secret.wav").write_bytes(encode(sample_wave))
    assert outcome(inside, {"bytes": None, "path": path})[0] == "path_outside"


def test_an_id_finds_its_own_file_alone(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "a.csv").touch()
    (inside / "a.csv").touch()
    assert find_beside(inside, "a", ".csv") == inside / "a.csv"
    for utt_id in ("../a", f"{tmp_path}/a", "b", "x" * 5000, "a\0"):
        assert find_beside(inside, utt_id, ".csv") is None


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path, sample_wave: np.ndarray) -> None:
    inside = tmp_path / "corpus"
    inside.mkdir()
    (tmp_path / "secret.wav").write_bytes(encode(sample_wave))
    os.symlink(tmp_path / "secret.wav", inside / "a.wav")
    assert outcome(inside, {"bytes": None, "path": "a.wav"})[0] == "path_outside"


def test_each_fault_gets_its_own_reason(tmp_path: Path, sample_wave: np.ndarray) -> None:
    flac = encode(sample_wave, kind="FLAC")
    with_nan = sample_wave.copy()
    with_nan[1000:1010] = np.nan
    faults = {
        "missing_audio": {"bytes": None, "path": None},
        "file_missing": {"bytes": None, "path": "no-such.wav"},
        "unreadable": {"bytes": flac[: len(flac) // 2], "path": None},
        "empty": {"bytes": b"", "path": None},
        "too_short": {"bytes": encode(sample_wave[:4000]), "path": None},
        "too_long": {"bytes": encode(np.tile(sample_wave, 20)), "path": None},
        "silent": {"bytes": encode(np.zeros(RATE * 2)), "path": None},
        "non_finite": {"bytes": encode(with_nan, subtype="FLOAT"), "path": None},
        "clipped": {"bytes": encode(np.sign(sample_wave)), "path": None},
    }
    assert {reason: outcome(tmp_path, audio)[0] for reason, audio in faults.items()} == {name: name for name in faults}
    assert outcome(tmp_path, {"bytes": b"This is no sound at all.\n" * 40, "path": "text.wav"})[0] == "unreadable"
    assert outcome(tmp_path, {"bytes": encode(np.zeros(0)), "path": None})[0] == "empty"
    assert outcome(tmp_path, None)[0] == "missing_audio"
    assert (
        outcome(tmp_path, {"bytes": encode(np.full(RATE * 2, 0.4)), "path": None})[0] == "silent"
    )  # a dead microphone


def test_a_small_file_that_unpacks_to_hours_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = encode(np.zeros(RATE * 3600 * 2, np.int16), kind="FLAC")
    assert len(bomb) < 2_000_000
    assert outcome(tmp_path, {"bytes": bomb, "path": None})[0] == "too_long"
