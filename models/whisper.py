"""Whisper, encoded once and read twice: the same encoder frames give the transcript and the emotion statistics.

A wrapper around faster-whisper's model (CTranslate2). It cuts audio into windows of at most 30 seconds, batches windows
of several utterances into one call, and decodes without sampling, so that equal audio gives equal text. It knows
nothing of files, references or error rates.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ctranslate2 import StorageView
    from faster_whisper.tokenizer import Tokenizer

SAMPLE_RATE = 16_000
WINDOW = 30 * SAMPLE_RATE  # samples that the encoder sees at once, at most
FRAME = 320  # samples an encoder frame, 50 frames a second
MEL_FRAME = 160  # samples a spectrogram frame
PADDING_STEP = 10 * SAMPLE_RATE  # see Whisper.encode
SILENCE_AFTER = 2 * SAMPLE_RATE
BATCH = 8  # windows a call: more is no faster on a CPU and costs memory
BEAM = 5

# As OpenAI and faster-whisper set them: text that compresses better than this is a loop, and a window that is likely
# silent and whose words are unlikely has no words.
COMPRESSION_LIMIT = 2.4
NO_SPEECH_LIMIT = 0.6
LOG_PROBABILITY_LIMIT = -1.0

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Encoding:
    """The encoder's output for one utterance.

    Each of `windows` is [frames, D], padded with what the encoder makes of silence; the first `frames[w]` frames of
    window w cover real audio (50 a second, at least one).
    """

    windows: tuple[NDArray[np.floating], ...]
    frames: tuple[int, ...]


class Whisper:
    """A CTranslate2 Whisper model in a local folder.

    `threads` are CPU threads a call; `device` is cpu or cuda. Raises FileNotFoundError when the folder is not a whole
    model (nothing is ever downloaded).
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, path: Path, threads: int = 1, device: str = "cpu") -> None:
        from faster_whisper import WhisperModel

        path = Path(path)
        for name in ("config.json", "model.bin", "tokenizer.json"):  # faster-whisper would fetch a missing tokenizer
            if not (path / name).is_file():
                raise FileNotFoundError(f"{path} is not a CTranslate2 Whisper model: it has no {name}")
        compute_type = "int8" if device == "cpu" else "float16"  # int8: twice as fast on a CPU, and as accurate
        self._whisper = WhisperModel(
            str(path), device=device, compute_type=compute_type, cpu_threads=threads, local_files_only=True
        )
        self._model = self._whisper.model

    @property
    def is_multilingual(self) -> bool:
        return bool(self._model.is_multilingual)

    @property
    def languages(self) -> tuple[str, ...]:
        """The ISO 639 codes that it can transcribe."""
        return tuple(self._whisper.supported_languages)

    def encode(self, waves: Sequence[Wave]) -> list[Encoding]:
        """Encode waves, float32 [samples] at 16 kHz. Longer ones than 30 seconds are cut where they are quietest.

        A multilingual model hears windows padded to 30 seconds, as it was trained. An English-only one hears them
        padded to the next 10 seconds that leave 2 of silence: for tiny.en that is up to five times faster and no less
        accurate (`docs/models.md` has the figures).
        """
        cut = [list(_windows(wave)) for wave in waves]
        pieces = [piece for utterance in cut for piece in utterance]
        padded = [self._padded(len(piece)) for piece in pieces]
        encoded: dict[int, NDArray[np.floating]] = {}
        for batch in _equal_batches(padded):
            features = np.stack([self._features(pieces[index], padded[index]) for index in batch])
            encoded.update(zip(batch, np.array(self._model.encode(_storage(features), to_cpu=True)), strict=True))
        windows = (encoded[index] for index in range(len(pieces)))
        return [
            Encoding(tuple(next(windows) for _ in utterance), tuple(_frames(len(piece)) for piece in utterance))
            for utterance in cut
        ]

    def transcribe(self, encodings: Sequence[Encoding], language: str = "en") -> list[str]:
        """Return what was said in each utterance, without timestamps.

        Beam search of width 5. A window whose text is a loop is decoded again with repetition forbidden, where
        faster-whisper would sample at a higher temperature: same purpose, but the same audio always gives the same
        text. Noise without speech has no text; of digital silence Whisper may still make a word or two. Raises
        ValueError for a language that the model does not know.
        """
        if language not in self.languages:
            raise ValueError(f"this Whisper model transcribes {', '.join(self.languages)}, not {language}")
        windows = [window for encoding in encodings for window in encoding.windows]
        texts: dict[int, str] = {}
        for batch in _equal_batches([len(window) for window in windows]):
            texts.update(zip(batch, self._decode(np.stack([windows[index] for index in batch]), language), strict=True))
        in_order = (texts[index] for index in range(len(windows)))
        return [" ".join(filter(None, (next(in_order) for _ in encoding.frames))) for encoding in encodings]

    def detect_language(self, encodings: Sequence[Encoding]) -> list[tuple[str, float]]:
        """Return for each utterance the likeliest language of its first window, and its probability.

        Raises ValueError for an English-only model, which cannot tell.
        """
        if not self.is_multilingual:
            raise ValueError("an English-only Whisper model cannot detect languages")
        found: list[tuple[str, float]] = []
        for start in range(0, len(encodings), BATCH):
            first = np.stack([encoding.windows[0] for encoding in encodings[start : start + BATCH]])
            found.extend((ranked[0][0][2:-2], ranked[0][1]) for ranked in self._model.detect_language(_storage(first)))
        return found

    def _padded(self, samples: int) -> int:
        """Return the length in samples that a window is padded to."""
        if self.is_multilingual:
            return WINDOW
        return min(WINDOW, -(-(samples + SILENCE_AFTER) // PADDING_STEP) * PADDING_STEP)

    def _features(self, piece: Wave, padded: int) -> NDArray[np.float32]:
        """Return the log-Mel spectrogram [mels, frames] of a window, padded as faster-whisper pads it."""
        from faster_whisper.audio import pad_or_trim

        return pad_or_trim(self._whisper.feature_extractor(piece), padded // MEL_FRAME)

    def _decode(self, windows: NDArray[np.floating], language: str) -> list[str]:
        tokenizer = self._tokenizer(language)
        texts = self._generate(windows, tokenizer)
        loops = [index for index, text in enumerate(texts) if _compression(text) > COMPRESSION_LIMIT]
        if loops:
            for index, text in zip(loops, self._generate(windows[loops], tokenizer, forbid_ngram=3), strict=True):
                texts[index] = text
        return texts

    def _generate(self, windows: NDArray[np.floating], tokenizer: "Tokenizer", forbid_ngram: int = 0) -> list[str]:
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        results = self._model.generate(
            _storage(windows),
            [prompt] * len(windows),
            beam_size=BEAM,
            no_repeat_ngram_size=forbid_ngram,
            return_scores=True,
            return_no_speech_prob=True,
        )
        texts = []
        for result in results:
            tokens = result.sequences_ids[0]
            mean_log_probability = result.scores[0] * len(tokens) / (len(tokens) + 1)
            silent = result.no_speech_prob > NO_SPEECH_LIMIT and mean_log_probability < LOG_PROBABILITY_LIMIT
            texts.append("" if silent else tokenizer.decode(tokens).strip())
        return texts

    def _tokenizer(self, language: str) -> "Tokenizer":
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._whisper.hf_tokenizer, self.is_multilingual, task="transcribe", language=language)


def frame_statistics(encoding: Encoding) -> NDArray[np.float32]:
    """Return mean and standard deviation, [2 * D], of the encoder frames that cover real audio."""
    real = np.concatenate([window[:count] for window, count in zip(encoding.windows, encoding.frames, strict=True)])
    real = real.astype(np.float64)
    return np.concatenate([real.mean(axis=0), real.std(axis=0)]).astype(np.float32)


def _windows(wave: Wave) -> Iterator[Wave]:
    """Cut a wave into windows of at most 30 s and whole frames, each in the quietest 0.1 s of the window's last 5 s."""
    step = SAMPLE_RATE // 10
    while len(wave) > WINDOW:
        tail = wave[WINDOW - 5 * SAMPLE_RATE : WINDOW].reshape(-1, step)
        quietest = int(np.square(tail).sum(axis=1).argmin())
        cut = (WINDOW - 5 * SAMPLE_RATE + quietest * step + step // 2) // FRAME * FRAME
        yield wave[:cut]
        wave = wave[cut:]
    yield wave


def _equal_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group the indices of equal lengths, at most `BATCH` together."""
    for length in sorted(set(lengths)):
        equal = [index for index, other in enumerate(lengths) if other == length]
        yield from (equal[start : start + BATCH] for start in range(0, len(equal), BATCH))


def _frames(samples: int) -> int:
    return max(1, -(-samples // FRAME))


def _compression(text: str) -> float:
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def _storage(array: NDArray[np.floating]) -> "StorageView":
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))
