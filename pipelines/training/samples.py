"""Samples: a few held-out sources as the base and the trained model speak them, for people to hear.

They are spoken in the voice of a training speaker, never in their own: what is logged is anonymized speech, and its
words are those of the corpus. They do not follow its loudness: what was prepared has no recordings.
"""

from pathlib import Path

import soundfile
import torch

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.voices import Voice
from pipelines.training.codes_feed import CODES, CodesFeed, codes_of
from pipelines.training.pairs import NEUTRAL
from pipelines.training.rows import timbre_of

SEED = 0


def write_samples(folder: Path, base: str, trained: Path, feed: CodesFeed, count: int, frame_rate: float) -> list[Path]:
    """Write `count` held-out sources, each before and after, as FLAC; return the files."""
    sources = [pair.source for pair in feed.validation_pairs()[:count]]
    neutral = [utterance for utterance in feed.corpus.training if utterance.emotion == NEUTRAL]
    speaker = (neutral or feed.corpus.training)[0]
    voice = voice_of(feed, speaker.utt_id, feed.settings.prompt_frames, frame_rate)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = []
    for when, model in (("before", base), ("after", str(trained))):
        spoken = StreamVoiceAnon.from_pretrained(model)
        for number, source in enumerate(sources):
            content = torch.from_numpy(feed.content(feed.rows.read(source, feed.columns)))
            wave = spoken.speak(content, voice, torch.Generator().manual_seed(SEED))
            emotion = feed.rows.spoken[source].emotion.replace("/", "-")[:20]
            file = folder / f"{number}-{emotion}-{when}.flac"
            soundfile.write(file, wave.numpy(), spoken.sample_rate)
            files.append(file)
    return files


def voice_of(feed: CodesFeed, utt_id: str, most_frames: int, frame_rate: float, voice_id: str = "") -> Voice:
    """Return a prepared utterance, its first `most_frames` frames, as a voice to speak with."""
    row = feed.rows.read(utt_id, CODES)
    acoustic = row["acoustic"].reshape(-1, int(row["frames"]))[:, :most_frames]
    return Voice(
        content=torch.from_numpy(codes_of(feed.content(row))[:most_frames]),
        acoustic=torch.from_numpy(acoustic.astype("int64")),
        style=torch.from_numpy(row["style"].astype("float32")),
        timbre=torch.from_numpy(timbre_of(row).astype("float32")),
        voice_id=voice_id,
        frame_seconds=1.0 / frame_rate,
    )
