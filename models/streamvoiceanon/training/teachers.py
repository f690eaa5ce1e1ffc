"""Teachers: models that hear speech and say, frame by frame, what a network in training should come to know.

`PhoneTeacher` is embedded and says phonemes and prosody, which is what a content encoder should keep of speech;
`WhisperTeacher` is embedded (its encoder's frames carry words, and enough of the voice's manner that this project's
emotion head reads them); `SpeechBrainTeacher` is the wav2vec2 recogniser fine-tuned on IEMOCAP; `Emotion2vecTeacher`
needs the package `funasr`. All hear float32 waves at 16 kHz and answer with frames at their own rate, which `to_frames`
brings to that of the codes.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

PROSODY = 3  # channels of `prosody`

Wave = NDArray[np.float32]
Frames = NDArray[np.float32]  # [frames, width]


class Teacher(Protocol):
    """What a teacher answers to. Waves are float32 [samples] at `sample_rate` hertz; frames come at `rate` a second."""

    sample_rate: int
    rate: float
    width: int

    def features(self, waves: Sequence[Wave]) -> list[Frames]:
        """Return frames [n, width] of each wave; frame i is about the i-th 1 / `rate` seconds."""
        ...


class WhisperTeacher:
    """The encoder of a CTranslate2 Whisper model in a local folder."""

    sample_rate = 16_000
    rate = 50.0

    def __init__(self, path: Path, threads: int = 1, device: str = "cpu") -> None:
        from models.whisper import Whisper

        self._whisper = Whisper(path, threads, device)
        self.width = self.features([np.zeros(400, np.float32)])[0].shape[1]

    def features(self, waves: Sequence[Wave]) -> list[Frames]:
        frames = []
        for encoding in self._whisper.encode(waves):
            real = [window[:count] for window, count in zip(encoding.windows, encoding.frames, strict=True)]
            frames.append(np.concatenate(real).astype(np.float32))
        return frames


class PhoneTeacher:
    """What is said and how, and not by whom: [n, phones + PROSODY].

    First the probability of each phoneme, as a head on Whisper's encoder hears it, then `prosody`.
    """

    sample_rate = 16_000
    rate = 50.0

    def __init__(self, whisper: Path, head: Path, threads: int = 1, device: str = "cpu") -> None:
        from models.phones import PhoneHead

        self._whisper = WhisperTeacher(whisper, threads, device)
        self._head = PhoneHead.load(head)
        self.phones = self._head.phones
        self.width = len(self._head.phones) + PROSODY

    def features(self, waves: Sequence[Wave]) -> list[Frames]:
        from models.phones import distributions

        heard = [distributions(self._head, frames) for frames in self._whisper.features(waves)]
        return [
            np.concatenate([phones, prosody(wave, len(phones))], axis=1)
            for wave, phones in zip(waves, heard, strict=True)
        ]


def prosody(wave: Wave, frames: int) -> Frames:
    """Return [frames, PROSODY] of a wave at 16 kHz, 50 a second: voiced or not, pitch, level.

    Pitch is in octaves above the utterance's median, level in tens of decibels below its loud places, so that both tell
    how something was said and little of who has such a voice. Between voiced frames pitch goes straight on.
    """
    from models.pitch import HOP, fundamental_frequency

    frequency = fundamental_frequency(wave)
    voiced = np.isfinite(frequency)
    octaves = np.zeros(len(frequency))
    if voiced.any():
        above = np.log2(frequency[voiced] / np.median(frequency[voiced]))
        octaves = np.interp(np.arange(len(frequency)), np.flatnonzero(voiced), np.clip(above, -1.0, 1.0))
    spans = np.lib.stride_tricks.sliding_window_view(np.pad(wave, (HOP, HOP)), 2 * HOP)[::HOP]
    level = 10.0 * np.log10(np.square(spans, dtype=np.float64).mean(1) + 1e-10)
    level = np.clip(level - np.quantile(level, 0.95), -40.0, 10.0) / 10.0
    count = min(len(voiced), len(level))
    told = np.stack([voiced[:count], octaves[:count], level[:count]], axis=1)
    return to_frames(told, 16_000 / HOP, 50.0, frames)


class SpeechBrainTeacher:
    """The wav2vec2 recogniser in the layout of `speechbrain/emotion-recognition-wav2vec2-IEMOCAP`, before its head."""

    sample_rate = 16_000
    rate = 50.0

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from models.emotion import SpeechBrainEmotion

        self._recogniser = SpeechBrainEmotion(path, device)
        self.width = self.features([np.zeros(400, np.float32)])[0].shape[1]

    def features(self, waves: Sequence[Wave]) -> list[Frames]:
        return [self._recogniser.frames(wave) for wave in waves]


class Emotion2vecTeacher:
    """emotion2vec (Ma et al., arXiv 2312.15185) in a local folder, as funasr publishes it: `config.yaml`, `model.pt`.

    funasr evaluates one entry of that configuration as Python. It is therefore read first, as plain data, and refused
    with a ValueError unless that entry is a list of numbers and the model is an emotion2vec. Raises ImportError with
    the command that mends it where funasr is not installed. Nothing is downloaded.
    """

    sample_rate = 16_000
    rate = 50.0

    def __init__(self, path: Path, device: str = "cpu") -> None:
        check_emotion2vec_config(path)
        try:
            from funasr import AutoModel
        except ImportError as error:
            raise ImportError("the emotion2vec teacher needs funasr: pip install 'voxveil[emotion2vec]'") from error
        self._model: Any = AutoModel(
            model=str(path),
            init_param=str(path / "model.pt"),
            device=device,
            disable_update=True,
            disable_pbar=True,
            disable_log=True,
        )
        self.width = self.features([np.zeros(800, np.float32)])[0].shape[1]

    def features(self, waves: Sequence[Wave]) -> list[Frames]:
        frames = []
        for wave in waves:  # one at a time: the model was trained without padding
            padded = np.pad(wave, (0, max(0, 800 - len(wave))))
            (answer,) = self._model.generate(padded, fs=self.sample_rate, granularity="frame", extract_embedding=True)
            frames.append(np.asarray(answer["feats"], dtype=np.float32))
        return frames


def check_emotion2vec_config(path: Path) -> None:
    """Raise ValueError unless the folder's `config.yaml` is an emotion2vec's and holds nothing that could be run."""
    import yaml

    file = path / "config.yaml"
    if not file.is_file() or not (path / "model.pt").is_file():
        raise ValueError(f"{path} is not an emotion2vec model: it needs config.yaml and model.pt")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        layers = str(settings["model_conf"]["modalities"]["audio"]["feature_encoder_spec"])
        model = settings["model"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the configuration of an emotion2vec model: {error!r}") from None
    if model != "Emotion2vec" or settings.get("trust_remote_code") or settings.get("remote_code"):
        raise ValueError(f"{file} names another model or code of its own, and is refused")
    if not re.fullmatch(r"[\[\](),+*\d\s]{1,500}", layers):
        raise ValueError(f"{file}: feature_encoder_spec is no list of numbers, and is refused")


def to_frames(features: NDArray[np.floating], rate: float, frame_rate: float, frames: int) -> Frames:
    """Resample features [n, D] at `rate` to [frames, D] at `frame_rate`, both in frames a second.

    Frame f is the mean of what lies within [f, f + 1) / `frame_rate` seconds; features are taken as constant over their
    1 / `rate` seconds, and the last one lasts for ever (a teacher without padding ends a little early).
    """
    if not len(features):
        raise ValueError("no features to resample")
    sums = np.concatenate([np.zeros((1, features.shape[1])), np.cumsum(features.astype(np.float64), axis=0)])
    edges = np.arange(frames + 1) * rate / frame_rate  # in the features' own frames
    whole = np.minimum(edges.astype(np.int64), len(features) - 1)
    integral = sums[whole] + (edges - whole)[:, None] * features[whole]
    return (np.diff(integral, axis=0) * frame_rate / rate).astype(np.float32)
