"""The anonymizer that comes along: small, known by its digests, with voices enough, and it says the same in another."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from metrics.recognition import count_errors
from models import registry, speaker
from models.catalogue import EMBEDDED_VOICES, AnonymizerSpec, load_anonymizer
from models.streamvoiceanon import StreamVoiceAnon, VoiceBank
from models.whisper import Whisper

SAMPLE = Path(__file__).parents[2] / "sample" / "english"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def folder() -> Path:
    return registry.resolve(registry.ANONYMIZER).path


@pytest.fixture(scope="module")
def anonymizer() -> StreamVoiceAnon:
    loaded = load_anonymizer(AnonymizerSpec("streamvoiceanon"), 16_000)
    assert isinstance(loaded, StreamVoiceAnon)
    return loaded


def test_it_fits_into_a_repository(folder: Path) -> None:
    bank = folder / EMBEDDED_VOICES
    assert bank.stat().st_size <= 5 * MEGABYTE
    assert sum(file.stat().st_size for file in folder.iterdir()) - bank.stat().st_size <= 30 * MEGABYTE


def test_it_has_voices_enough_and_none_is_called_after_anybody(folder: Path) -> None:
    bank = VoiceBank.load(folder / EMBEDDED_VOICES)
    assert len(bank) >= 40
    assert all(voice.voice_id == f"voice-{number:05d}" for number, voice in enumerate(bank.voices))


def test_a_bank_of_ones_own_can_be_used_with_it(folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.parquet"
    VoiceBank(VoiceBank.load(folder / EMBEDDED_VOICES).voices[:2]).save(few)
    own = load_anonymizer(AnonymizerSpec("streamvoiceanon", voices=str(few)), 16_000)
    assert {own.draw_voice(seed).voice_id for seed in range(20)} == {"voice-00000", "voice-00001"}


def test_a_live_stream_stays_within_the_promised_latency(anonymizer: StreamVoiceAnon) -> None:
    assert anonymizer.open_stream(anonymizer.draw_voice(0)).latency <= 0.180


@pytest.fixture(scope="module")
def spoken(anonymizer: StreamVoiceAnon) -> tuple[list[str], list[NDArray], list[NDArray]]:
    """Texts, recordings of twelve speakers, and what the anonymizer makes of them."""
    rows = pq.read_table(SAMPLE / "index.parquet").to_pylist()[::12]
    waves = [soundfile.read(SAMPLE / row["audio"]["path"], dtype="float32")[0] for row in rows]
    voices = [anonymizer.draw_voice(seed) for seed in range(len(waves))]
    made = anonymizer.anonymize([torch.from_numpy(wave) for wave in waves], voices, list(range(len(waves))))
    return [row["text"] for row in rows], waves, [wave.numpy() for wave in made]


def test_it_can_be_understood(spoken: tuple[list[str], list[NDArray], list[NDArray]]) -> None:
    texts, _, made = spoken
    whisper = Whisper(registry.resolve(registry.PROFILES["embedded"]["whisper"]).path, threads=2)
    counts = count_errors(texts, whisper.transcribe(whisper.encode(made)), "en")
    assert counts.word_errors.sum() / counts.reference_words.sum() < 0.5


def test_the_speaker_is_no_longer_there(spoken: tuple[list[str], list[NDArray], list[NDArray]]) -> None:
    _, waves, made = spoken
    encoder = speaker.load(registry.resolve(registry.PROFILES["embedded"]["speaker"]).path)
    before, after = (encoder.embed(part) for part in (waves, made))
    likeness = before @ after.T / np.outer(np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1))
    others = likeness[~np.eye(len(likeness), dtype=bool)]
    assert likeness.diagonal().mean() < others.mean() + others.std()
