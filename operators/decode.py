"""Decode: from a row's bytes or path to a mono wave at the job's sample rate, or a reason why not.

The audio of a corpus is hostile until proven otherwise: paths may point outside, headers may lie, a small file may
unpack to hours. The header is read before the samples, nothing is decoded past the limit, and nothing outside the
index's own folder is opened.
"""

import hashlib
import io
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.fs
import soundfile
import soxr

Batch = dict[str, np.ndarray]

MAXIMUM_FILE_BYTES = 1 << 30
MAXIMUM_SAMPLES = 1 << 26  # over all channels: 256 MiB decoded, whatever rate and channels a header claims


class Unusable(Exception):
    """One row cannot be used; `reason` is a key of QUARANTINE_REASONS, `detail` says what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Decode:
    """Adds `wave` (float32 [samples] in [-1, 1] at `sample_rate`), `audio_digest` (SHA-256 of the encoded bytes),
    `reason` ("" where all is well) and `detail`; takes away `audio`.

    Channels are averaged; any sample rate and subtype that libsndfile reads is converted.
    """

    needs = ("utt_id", "audio")
    adds = ("wave", "audio_digest", "reason", "detail")

    def __init__(self, folder: str, sample_rate: int, max_seconds: float) -> None:
        self.filesystem, self.folder = pyarrow.fs.FileSystem.from_uri(folder)
        self.sample_rate = sample_rate
        self.max_seconds = max_seconds

    def __call__(self, batch: Batch) -> Batch:
        waves, digests, reasons, details = [], [], [], []
        for audio in batch["audio"]:
            wave, digest, reason, detail = np.zeros(0, np.float32), "", "", ""
            try:
                encoded = self.read(audio)
                digest = hashlib.sha256(encoded).hexdigest()
                wave = decode_wave(encoded, self.sample_rate, self.max_seconds)
            except Unusable as fault:
                reason, detail = fault.reason, fault.detail
            waves.append(wave)
            digests.append(digest)
            reasons.append(reason)
            details.append(detail)
        rest = {name: column for name, column in batch.items() if name != "audio"}
        return rest | {
            "wave": object_array(waves),
            "audio_digest": np.array(digests, dtype=object),
            "reason": np.array(reasons, dtype=object),
            "detail": np.array(details, dtype=object),
        }

    def read(self, audio: dict[str, Any] | None) -> bytes:
        """Return a row's encoded bytes: those in the index, or those of the file that it names."""
        if audio is not None and audio.get("bytes") is not None:
            return bytes(audio["bytes"])
        if audio is None or not audio.get("path"):
            raise Unusable("missing_audio", "neither bytes nor path")
        return self.read_file(str(audio["path"]))

    def read_file(self, path: str) -> bytes:
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts or "\\" in path or "\0" in path:
            raise Unusable("path_outside", "the path is absolute or climbs out of the folder")
        full = f"{self.folder}/{relative}"
        try:
            if isinstance(self.filesystem, pyarrow.fs.LocalFileSystem):
                check_inside(full, self.folder)
            information = self.filesystem.get_file_info(full)
            if information.type != pyarrow.fs.FileType.File:
                raise Unusable("file_missing", "no such file")
            if information.size is not None and information.size > MAXIMUM_FILE_BYTES:
                raise Unusable("too_long", f"{information.size} bytes")
            with self.filesystem.open_input_stream(full) as stream:
                return bytes(stream.read(MAXIMUM_FILE_BYTES))
        except OSError as fault:
            why = os.strerror(fault.errno) if fault.errno else "the file cannot be opened"
            raise Unusable("file_missing", why) from None  # Arrow's own text repeats the path, however long


def check_inside(full: str, folder: str) -> None:
    """Raise Unusable when a local path, its links followed, lies outside the folder."""
    try:
        inside = Path(full).resolve().is_relative_to(Path(folder).resolve())
    except RuntimeError:  # what resolve raises for links that lead in a circle
        raise Unusable("file_missing", "the link leads in a circle") from None
    if not inside:
        raise Unusable("path_outside", "a link leads out of the folder")


def find_beside(folder: Path, utt_id: str, suffix: str) -> Path | None:
    """Return the file of `folder` that is named after an utterance, None where there is none: an id is no path."""
    path = folder / f"{utt_id}{suffix}"
    return path if utt_id == Path(utt_id).name and os.path.isfile(path) else None


def decode_wave(encoded: bytes, sample_rate: int, max_seconds: float) -> np.ndarray:
    """Return the mono wave, float32 [samples] at `sample_rate`; raises Unusable.

    Samples that are not finite pass through: screening names them.
    """
    if not encoded:
        raise Unusable("empty", "0 bytes")
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as sound:
            if sound.frames > max_seconds * sound.samplerate:
                raise Unusable("too_long", f"{sound.frames / sound.samplerate:.1f} s")
            if sound.frames * sound.channels > MAXIMUM_SAMPLES:
                raise Unusable("too_long", f"{sound.frames} samples of {sound.channels} channels")
            limit = int(max_seconds * sound.samplerate) + 1
            samples = sound.read(limit, dtype="float32", always_2d=True)
            expected, source_rate = sound.frames, sound.samplerate
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as fault:
        raise Unusable("unreadable", str(fault).split(":")[-1].strip() or "not a sound file") from None
    if len(samples) < expected:
        raise Unusable("unreadable", f"the file ends after {len(samples)} of {expected} samples")
    if len(samples) == 0:
        raise Unusable("empty", "0 samples")
    mono = samples.mean(axis=1)
    if source_rate != sample_rate and np.isfinite(mono).all():
        mono = soxr.resample(mono, source_rate, sample_rate)
    return mono.astype(np.float32)


def object_array(items: list[Any]) -> np.ndarray:
    """Return a one-dimensional object array of the items, even where they are arrays of equal length."""
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array
