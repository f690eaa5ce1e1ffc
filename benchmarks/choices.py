"""What a model's settings do to words, voices, emotion and sound: the table that they are chosen by.

    python -m benchmarks.choices --model FOLDER --voices BANK --speech FOLDER "" delay=2 temperature=0.5,top_p=0.9

`--speech` has a `metadata.csv` (utt_id, speaker_id, path, and text and emotion where they are known), of people whom
nobody will report results on. Each setting speaks all of it, every utterance in a voice drawn anew: `delay` in frames,
`temperature` and `top_p` of the draws, `alpha` of the voices, `prompt` in seconds of each voice's prompt that is read,
`context` how whole utterances are heard, causal unless it is full, `prosody` how much is kept of how something is said,
reduced where the model can unless it is full. Words are counted against the text, or against what Whisper hears in the
original; `vs first` is what they are above those of the first setting, of the same utterances in the same draws
(`--draws`) of voices: what the draw makes of words is more than most settings make of them. `--words` names another
recogniser that counts them as well, because full context hears with the very ears of the embedded one. Voices are
compared by GE2E, enrolled in one run and tried in the draws, which have other voices (lazy-informed), and, where
`--others` has speech of other people, by a back-end that is trained on what each setting makes of theirs
(semi-informed), in several splits of what people said into known and tried. Emotion is the recall that is left of the
original's, where it is labelled, in all draws.
"""

import argparse
import csv
import functools
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from metrics.emotion import recall_retained
from metrics.estimate import Estimate
from metrics.intervals import ratio_estimate
from metrics.recognition import count_errors
from metrics.signal import mean_estimate, pitch_correlation
from metrics.trials import Trials, cosine_trials, split_enrolment_trial
from metrics.verification import evaluate_verification
from models import registry, speaker
from models.attackers import SpeakerBackend, train_backend
from models.catalogue import Context, Prosody
from models.emotion import CLASSES, EmotionHead, canonical
from models.pitch import fundamental_frequency
from models.quality import Dnsmos
from models.streamvoiceanon import StreamVoiceAnon, VoiceBank
from models.streamvoiceanon.contour import mean_pitch
from models.streamvoiceanon.voices import Voice
from models.whisper import Whisper, frame_statistics
from operators.measure_pitch import FRAME

RATE = 16_000  # hertz, the auditors'
SPLITS = 8  # of each person's recordings: a split makes as much of an EER as most settings do
SETTINGS = {
    "delay": int,
    "temperature": float,
    "top_p": float,
    "alpha": float,
    "prompt": float,
    "context": str,
    "prosody": str,
}

Waves = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Speech:
    """Recordings at 16 kHz; `texts` and `emotions` hold None where they are not known."""

    ids: list[str]
    speakers: list[str]
    texts: list[str | None]
    emotions: list[str | None]
    waves: Waves

    @functools.cached_property
    def usual(self) -> dict[str, float | None]:
        """The usual pitch of each speaker, as a job measures it (`pipelines.usual_pitch`)."""
        heard: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for name, wave in zip(self.speakers, self.waves, strict=True):
            heard[name].append(mean_pitch(torch.from_numpy(wave), FRAME))
        usual: dict[str, float | None] = dict.fromkeys(heard)
        for name, own in heard.items():
            if count := sum(count for _, count in own):
                usual[name] = sum(octaves * count for octaves, count in own) / count
        return usual


class Ears:
    """The embedded auditors, and what they hear in the original."""

    def __init__(self, speech: Speech, threads: int, words: str | None = None) -> None:
        profile = {role: registry.resolve(uri).path for role, uri in registry.PROFILES["embedded"].items()}
        self.speech = speech
        self.whisper = Whisper(profile["whisper"], threads=threads)
        self.encoder = speaker.load(profile["speaker"])
        self.head = EmotionHead.load(profile["emotion"])
        self.quality = Dnsmos(profile["quality"], threads)
        heard, self.emotions = self.listen(speech.waves)
        self.texts = [text or said for text, said in zip(speech.texts, heard, strict=True)]
        self.pitch = [fundamental_frequency(wave) for wave in speech.waves]
        self.other = Whisper(registry.resolve(words).path, threads=threads) if words else None
        self.others_texts = self.texts
        if self.other is not None:
            others = self.other.transcribe(self.other.encode(speech.waves))
            self.others_texts = [text or said for text, said in zip(speech.texts, others, strict=True)]
        self.first: NDArray[np.int64] | None = None  # words that the first setting got wrong

    def listen(self, waves: Waves) -> tuple[list[str], list[str]]:
        """Return the words and the emotion of each wave."""
        encodings = self.whisper.encode(waves)
        statistics = [frame_statistics(encoding)[None] for encoding in encodings]
        emotions = [
            CLASSES[int(self.head.for_speaker(name).predict(own)[0].argmax())]
            for name, own in zip(self.speech.speakers * (len(waves) // len(self.speech.ids)), statistics, strict=True)
        ]
        return self.whisper.transcribe(encodings), emotions

    def measure(self, enrolment: Waves, draws: list[Waves], attacker: SpeakerBackend | None) -> dict[str, Estimate]:
        """Return the figures of the speech as it came out of several draws of voices.

        `enrolment` is the same speech in other voices.
        """
        waves, figures = [wave for draw in draws for wave in draw], {}
        speakers, texts, pitch = ([*each] * len(draws) for each in (self.speech.speakers, self.texts, self.pitch))
        words, emotions = self.listen(waves)
        errors = count_errors(texts, words, "en")
        figures["WER"] = ratio_estimate(errors.word_errors, errors.reference_words, speakers, 0)
        wrong = np.asarray(errors.word_errors)
        self.first = wrong if self.first is None else self.first
        figures["vs first"] = ratio_estimate(wrong - self.first, errors.reference_words, speakers, 0)
        if self.other is not None:
            heard = count_errors(self.others_texts * len(draws), self.other.transcribe(self.other.encode(waves)), "en")
            figures["WER, other"] = ratio_estimate(heard.word_errors, heard.reference_words, speakers, 0)
        score = self.quality.score(waves)
        figures["DNSMOS"] = mean_estimate(score["overall"], speakers, 0)
        pitches = [pitch_correlation(a, fundamental_frequency(b)) for a, b in zip(pitch, waves, strict=True)]
        figures["pitch"] = mean_estimate(pitches, speakers, 0)
        theirs, ours = self.encoder.embed(enrolment), [self.encoder.embed(draw) for draw in draws]
        figures["EER"] = self.recognise(theirs, ours)
        if attacker is not None:
            figures["EER, trained"] = self.recognise(attacker.project(theirs), [attacker.project(own) for own in ours])
        speakers = self.speech.speakers
        labelled = [row for row, emotion in enumerate(self.speech.emotions) if emotion is not None]
        if labelled:
            every = [row + draw * len(speakers) for draw in range(len(draws)) for row in labelled]
            columns = (self.speech.emotions * len(draws), self.emotions * len(draws), emotions, speakers * len(draws))
            truth, before, after, who = ([str(column[row]) for row in every] for column in columns)
            figures["UAR kept"] = recall_retained(truth, before, after, CLASSES, who, 0)
        return figures

    def recognise(self, enrolment: NDArray, draws: list[NDArray]) -> Estimate:
        """Return the EER of embeddings [utterances, width] of one run, tried in several draws, of SPLITS splits."""
        by, every = np.array(self.speech.speakers), []
        for seed in range(SPLITS):
            split = split_enrolment_trial(self.speech.ids, self.speech.speakers, seed)
            known, known_by, tried_by = enrolment[split.enrolment], by[split.enrolment], by[split.trial]
            every += [cosine_trials(known, known_by, tried[split.trial], tried_by) for tried in draws]
        columns = ("scores", "enrolment_speaker", "trial_speaker")
        pooled = Trials(*(np.concatenate([getattr(trials, column) for trials in every]) for column in columns))
        return evaluate_verification(pooled, 0)["eer"]

    def train_attacker(self, others: Speech, waves: Waves) -> SpeakerBackend:
        """Return an attacker who knows who speaks in `waves`, the anonymized speech of others."""
        return train_backend(self.encoder.embed(waves), others.speakers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--voices", type=Path, required=True, help="voice bank of the model")
    parser.add_argument("--speech", type=Path, required=True, help="speech to choose by, of nobody reported on")
    parser.add_argument("--others", type=Path, help="speech of other people, two recordings each or more")
    parser.add_argument("--draws", type=int, default=1, help="how often each setting speaks it, in other voices")
    parser.add_argument("--words", help="another Whisper to count words by, such as file:/models/whisper-base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("settings", nargs="*", default=[""], help="such as delay=3,temperature=0.5")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speech = read_speech(options.speech)
    others = None if options.others is None else read_speech(options.others)
    if others is not None and (known := set(others.speakers) & set(speech.speakers)):
        raise SystemExit(f"--others: {', '.join(sorted(known))} would be attacked by who was trained on them")
    if others is not None and sum(count > 1 for count in Counter(others.speakers).values()) < 2:
        raise SystemExit("--others: an attacker learns from two people with two recordings each, or more")
    ears = Ears(speech, options.threads, options.words)
    bank = VoiceBank.load(options.voices)
    seconds = sum(map(len, speech.waves)) / RATE
    print(f"{len(speech.ids)} utterances of {len(set(speech.speakers))} speakers, {seconds / 60:.1f} minutes\n")
    names: list[str] = []
    for text in options.settings or [""]:
        setting = read_setting(text)
        model = load(options.model, setting)
        voices = [cropped(voice, setting.get("prompt")) for voice in bank.voices]
        model.voices, model.alpha = VoiceBank(voices), float(setting.get("alpha", 1.0))
        began = time.perf_counter()
        runs = [1, 2, *range(4, 3 + options.draws)]  # the third is the attacker's
        enrolment, *draws = (speak(model, speech, run, setting.get("delay")) for run in runs)
        rate = (time.perf_counter() - began) / len(runs) / seconds
        attacker = None
        if others is not None:
            attacker = ears.train_attacker(others, speak(model, others, 3, setting.get("delay")))
        figures = ears.measure(enrolment, draws, attacker)
        if not names:
            names = list(figures)
            print(f"| setting | {' | '.join(names)} | s a second |\n|{'---|' * (len(names) + 2)}")
        cells = " | ".join(shown(figures[name]) for name in names)
        print(f"| {text or 'as it is'} | {cells} | {rate:.2f} |", flush=True)


def read_speech(folder: Path) -> Speech:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    waves = []
    for row in rows:
        wave, rate = soundfile.read(folder / row["path"], dtype="float32")
        waves.append(soxr.resample(wave, rate, RATE) if rate != RATE else wave)
    return Speech(
        [row["utt_id"] for row in rows],
        [row["speaker_id"] for row in rows],
        [row.get("text") or None if row.get("language", "en") == "en" else None for row in rows],
        [canonical(row.get("emotion") or "") for row in rows],
        waves,
    )


def read_setting(text: str) -> dict[str, Any]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    for name, _, _ in pairs:
        if name not in SETTINGS:
            raise SystemExit(f"{name!r} is no setting; there are {', '.join(SETTINGS)}")
    setting = {name: SETTINGS[name](value) for name, _, value in pairs}
    for name, kind in (("context", Context), ("prosody", Prosody)):
        if setting.get(name) not in (None, *get_args(kind)):
            raise SystemExit(f"{name} is one of {', '.join(get_args(kind))}, not {setting[name]}")
    return setting


def load(folder: Path, setting: dict[str, Any]) -> StreamVoiceAnon:
    """Load the model; how codes are drawn is the setting's, the model's own where it says nothing."""
    model = StreamVoiceAnon.from_pretrained(
        folder, context=setting.get("context", "causal"), prosody=setting.get("prosody", "auto")
    )
    drawn = {name: setting[name] for name in ("top_p", "temperature") if name in setting}
    model.acoustic_lm.config = replace(model.acoustic_lm.config, **drawn)
    return model


def cropped(voice: Voice, seconds: float | None) -> Voice:
    """The voice with the first `seconds` of its prompt; None: all of it."""
    if seconds is None:
        return voice
    frames = max(1, round(seconds / voice.frame_seconds))
    return replace(voice, content=voice.content[:frames], acoustic=voice.acoustic[:, :frames])


def speak(model: StreamVoiceAnon, speech: Speech, run: int, delay: int | None) -> Waves:
    """Return the speech in voices of the bank that hang on the run's number."""
    seeds = [run * len(speech.ids) + number for number in range(len(speech.ids))]
    usual = None
    if model.prosody == "full":  # who hears no pitch makes nothing of it
        usual = [speech.usual[name] for name in speech.speakers]
    return say(model, speech.waves, [model.draw_voice(seed) for seed in seeds], seeds, delay, usual)


def say(
    model: StreamVoiceAnon,
    waves: Waves,
    voices: list[Voice],
    seeds: list[int] | None = None,
    delay: int | None = None,
    usual_pitch: list[float | None] | None = None,
) -> Waves:
    """Return waves at 16 kHz in these voices, whatever the model's rate."""
    ratio = model.sample_rate / RATE
    sources = [torch.from_numpy(wave if ratio == 1 else soxr.resample(wave, 1, ratio)).float() for wave in waves]
    spoken = model.anonymize(sources, voices, seeds, usual_pitch, delay=delay)
    return [wave.numpy() if ratio == 1 else soxr.resample(wave.numpy(), ratio, 1) for wave in spoken]


def shown(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.3f} ({estimate.lower:.3f} to {estimate.upper:.3f})"


if __name__ == "__main__":
    main()
