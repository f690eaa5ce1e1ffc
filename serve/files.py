"""A file in, an anonymous FLAC out, a second of audio at a time.

Uploads are hostile until proven otherwise: the header is read before the samples, nothing is decoded past the limit in
seconds of audio, in samples, or of time, and nothing touches the disk.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from models.anonymizer import Anonymizer
from serve.protocol import MAXIMUM_RATE, MINIMUM_RATE
from serve.session import SignalPath

Wave = NDArray[np.float32]

FORMATS = {"WAV", "WAVEX", "FLAC", "OGG"}
MAXIMUM_CHANNELS = 8
COUNTED_RATE = 48_000  # hertz; at a higher rate fewer seconds are taken, because samples are what takes memory
BLOCK = 1 << 16  # samples
STREAMINFO_ENDS = 42  # bytes into a FLAC file


class UnusableFile(Exception):
    """The upload cannot be anonymized; `status` is the HTTP status, the message a sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Recording:
    """A decoded upload: mono, float32 [samples] in [-1, 1], at its own sample rate (hertz)."""

    wave: Wave
    sample_rate: int


def decode(
    content: bytes, most_seconds: float, timeout: float, clock: Callable[[], float] = time.monotonic
) -> Recording:
    """Return the recording in a WAV, FLAC or Ogg file; raises UnusableFile.

    A header that promises more than `most_seconds`, or more samples than they have at COUNTED_RATE, is refused before
    anything is decoded; one that lies is caught while decoding, which stops after `timeout` seconds.
    """
    deadline = clock() + timeout
    blocks: list[Wave] = []
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            if sound.format not in FORMATS:
                raise UnusableFile(415, f"{sound.format} files are not taken; send WAV, FLAC or Ogg")
            rate = sound.samplerate
            if not MINIMUM_RATE <= rate <= MAXIMUM_RATE:
                raise UnusableFile(422, f"the sample rate is {rate} Hz; it may be {MINIMUM_RATE} to {MAXIMUM_RATE}")
            if sound.channels > MAXIMUM_CHANNELS:
                raise UnusableFile(422, f"the file has {sound.channels} channels, {MAXIMUM_CHANNELS} at most are taken")
            most = int(most_seconds * min(rate, COUNTED_RATE))
            too_long = UnusableFile(413, f"the file holds more than {most / rate:g} s of audio")
            if sound.frames > most:
                raise too_long
            count = 0
            while True:
                block = sound.read(BLOCK, dtype="float32", always_2d=True)
                if len(block) == 0:
                    break
                count += len(block)
                if count > most:
                    raise too_long
                if clock() > deadline:
                    raise UnusableFile(413, f"the file takes more than {timeout:g} s to decode")
                blocks.append(block.mean(axis=1))
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError):
        raise UnusableFile(422, "the file cannot be read as WAV, FLAC or Ogg") from None
    if count == 0:
        raise UnusableFile(422, "the file holds no audio")
    wave = np.concatenate(blocks)
    blocks.clear()
    if not np.isfinite(wave).all():
        raise UnusableFile(422, "the file holds samples that are not finite")
    return Recording(np.clip(wave, -1.0, 1.0, out=wave), rate)


def anonymize(recording: Recording, anonymizer: Anonymizer[Any], voice: Any, seed: int) -> Iterator[bytes]:
    """Yield an anonymous FLAC, 16 bits at the recording's own rate, about a second at a time."""
    rate = recording.sample_rate
    path = SignalPath(anonymizer.open_stream(voice, seed), rate, anonymizer.sample_rate)
    writer = FlacWriter(rate, len(recording.wave))
    for start in range(0, len(recording.wave), rate):
        part = recording.wave[start : start + rate]
        last = start + rate >= len(recording.wave)
        with torch.inference_mode():
            output = path.leave(path.stream.push(path.enter(part, last)), last)
        yield writer.write(output)
    yield writer.finish()


class _Pipe(io.RawIOBase):
    """A file that only grows: what is appended can be taken away, what is written over is lost.

    libsndfile goes back to the header when it closes a FLAC file; by then the header has left, with the length in it.
    """

    def __init__(self) -> None:
        self.position = 0
        self.end = 0
        self.pending = bytearray()

    def write(self, data: Any) -> int:
        if self.position == self.end:
            self.pending += data
            self.end += len(data)
        self.position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.end}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        return 0

    def take(self) -> bytes:
        """Return what was appended since the last call."""
        taken = bytes(self.pending)
        self.pending.clear()
        return taken


class FlacWriter:
    """Encodes FLAC piece by piece. The length is known beforehand and stands in the header, which goes out first."""

    def __init__(self, sample_rate: int, length: int) -> None:
        self.pipe = _Pipe()
        self.length = length
        self.head = b""
        self.sound = soundfile.SoundFile(self.pipe, "w", sample_rate, 1, "PCM_16", format="FLAC")

    def write(self, wave: Wave) -> bytes:
        """Encode samples [n] and return the bytes that are ready."""
        self.sound.write(wave)
        return self._take()

    def finish(self) -> bytes:
        """Return the last bytes."""
        self.sound.close()
        return self._take()

    def _take(self) -> bytes:
        new = self.pipe.take()
        if len(self.head) >= STREAMINFO_ENDS:
            return new
        self.head += new
        return with_length(self.head, self.length) if len(self.head) >= STREAMINFO_ENDS else b""


def with_length(flac: bytes, length: int) -> bytes:
    """Return the beginning of a FLAC file with the number of samples in its STREAMINFO block (RFC 9639, 8.2).

    The 36 bits are the last four of byte 21 and bytes 22 to 25: four of `fLaC`, four of block header, then the block.
    """
    first = (flac[21] & 0xF0) | (length >> 32 & 0x0F)
    return flac[:21] + bytes([first]) + (length & 0xFFFFFFFF).to_bytes(4, "big") + flac[26:]
