"""Pairs: from utterances with a speaker and an emotion to training items, a prompt and a source of one person.

The prompt is neutral and the source emotional, so that the emotion of what is written can come from the source alone.
Everything here is a pure function of the rows, a seed and an epoch: no audio, no files.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal, TypeVar

from models.emotion import CLASSES, canonical
from operators.schema import InputError

NEUTRAL = "neutral"
Pairing = Literal["emotional", "speaker"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Spoken:
    """What pairing knows of an utterance; `frames` is its length in frames of the model."""

    utt_id: str
    speaker_id: str
    emotion: str
    text: str
    frames: int


@dataclass(frozen=True)
class Pair:
    """A prompt and the source that is spoken after it, by utterance id. One id twice: an utterance cut in two."""

    prompt: str
    source: str


def split_speakers(speakers: Iterable[str], share: float, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Return (training, validation) speakers that share nobody; `share` of them validate, one at least.

    Raises InputError where there is one speaker only.
    """
    names = sorted(set(speakers))
    if len(names) < 2:
        raise InputError(
            f"the corpus has {len(names)} speaker{'' if len(names) == 1 else 's'}; validation by speakers who were not "
            "trained on needs two at least: add recordings of somebody else"
        )
    shuffled = random.Random(f"speakers {seed}").sample(names, len(names))
    held_out = min(len(names) - 1, max(1, round(share * len(names))))
    return frozenset(shuffled[held_out:]), frozenset(shuffled[:held_out])


def name_speakers(speakers: Collection[str], named: Collection[str]) -> frozenset[str]:
    """Return those who were `named` to validate. Raises InputError where one cannot, or nobody is left to train on."""
    if missing := sorted(set(named) - set(speakers)):
        raise InputError(
            f"validation_speakers: {', '.join(missing)} cannot be held out: the corpus has nothing of theirs that can "
            "be paired as validation wants it"
        )
    if not set(speakers) - set(named):
        raise InputError("validation_speakers: nobody is left to train on; hold out fewer")
    return frozenset(named)


def keep_known_emotions(
    utterances: Iterable[Spoken], known: Sequence[str] | None = CLASSES
) -> tuple[list[Spoken], list[str]]:
    """Return the utterances whose label the teacher knows, under the name of its class, and the other labels.

    `known` are the teacher's classes; None: it has none, and every label will do. The other labels come sorted, each
    once. Raises InputError where no label is known.
    """
    kept, unknown = [], set()
    for utterance in utterances:
        label = utterance.emotion.strip().lower()
        emotion = canonical(label) or label
        if emotion and (known is None or emotion in known):
            kept.append(replace(utterance, emotion=emotion))
        else:
            unknown.add(label[:30] or "(none)")
    if not kept:
        raise InputError(
            f"no utterance has a label that the teacher knows ({', '.join(known or ('any',))}); the corpus has "
            f"{', '.join(sorted(unknown)[:8]) or 'none'}: rename the labels in its column `emotion`"
        )
    return kept, sorted(unknown)


def fit_sequence(utterances: Iterable[Spoken], prompt_frames: int, limit: int) -> tuple[list[Spoken], int]:
    """Return the utterances that fit a sequence of `limit` frames after a prompt of at most `prompt_frames`, and how
    many do not. Raises InputError where none does."""
    everything = list(utterances)
    room = limit - prompt_frames
    if room < 1:
        raise InputError(f"prompts of {prompt_frames} frames fill the sequence limit of {limit}: lower prompt_seconds")
    kept = [utterance for utterance in everything if 0 < utterance.frames <= room]
    if everything and not kept:
        shortest = min(utterance.frames for utterance in everything)
        raise InputError(
            f"every utterance is longer than the sequence limit: the shortest has {shortest} frames, and {limit} less "
            f"{prompt_frames} for the prompt are {room}; cut the recordings, or lower prompt_seconds"
        )
    return kept, len(everything) - len(kept)


def pair_emotions(utterances: Sequence[Spoken], seed: int, epoch: int) -> list[Pair]:
    """Return as many pairs as there are emotional utterances: prompt neutral, source emotional, of one speaker.

    Emotions take turns, and within an emotion its speakers, and within those their utterances, so that none outweighs
    another by more than one; a prompt of another text is taken where the speaker has one. Raises InputError where
    nobody spoke both ways.
    """
    prompts, sources = _by_speaker_and_emotion(utterances)
    shuffle = random.Random(f"pairs {seed} {epoch}")
    emotions = sorted({emotion for _, emotion in sources})
    turns = {
        emotion: cycle(_shuffled(sorted(speaker for speaker, own in sources if own == emotion), shuffle))
        for emotion in emotions
    }
    own_sources = {cell: cycle(_shuffled(rows, shuffle)) for cell, rows in sorted(sources.items())}
    count = sum(len(rows) for rows in sources.values())
    pairs = []
    for _, emotion in zip(range(count), cycle(_shuffled(emotions, shuffle)), strict=False):
        speaker = next(turns[emotion])
        source = next(own_sources[speaker, emotion])
        pairs.append(Pair(_other_text(prompts[speaker], source, shuffle).utt_id, source.utt_id))
    return pairs


def pair_speakers(utterances: Sequence[Spoken], seed: int, epoch: int) -> list[Pair]:
    """Return a pair for each utterance, in a shuffled order: the prompt is any other of its speaker, emotion or not.

    An utterance of somebody who has no other is paired with itself.
    """
    shuffle = random.Random(f"speakers {seed} {epoch}")
    own: dict[str, list[Spoken]] = {}
    for utterance in sorted(utterances, key=lambda utterance: utterance.utt_id):
        own.setdefault(utterance.speaker_id, []).append(utterance)
    pairs = []
    for source in _shuffled(sorted(utterances, key=lambda utterance: utterance.utt_id), shuffle):
        others = [utterance for utterance in own[source.speaker_id] if utterance != source]
        prompt = _other_text(others, source, shuffle) if others else source
        pairs.append(Pair(prompt.utt_id, source.utt_id))
    return pairs


def draw_pairs(utterances: Sequence[Spoken], pairing: Pairing, seed: int, epoch: int) -> list[Pair]:
    """Return the pairs of an epoch."""
    return (pair_emotions if pairing == "emotional" else pair_speakers)(utterances, seed, epoch)


def _by_speaker_and_emotion(
    utterances: Sequence[Spoken],
) -> tuple[dict[str, list[Spoken]], dict[tuple[str, str], list[Spoken]]]:
    """Return neutral utterances by speaker, and emotional ones by (speaker, emotion) of speakers who have both."""
    neutral: dict[str, list[Spoken]] = {}
    emotional: dict[tuple[str, str], list[Spoken]] = {}
    for utterance in sorted(utterances, key=lambda utterance: utterance.utt_id):
        if utterance.emotion == NEUTRAL:
            neutral.setdefault(utterance.speaker_id, []).append(utterance)
        else:
            emotional.setdefault((utterance.speaker_id, utterance.emotion), []).append(utterance)
    if not neutral:
        raise InputError("the corpus has no neutral speech, and a prompt must be neutral: add utterances labelled so")
    if not emotional:
        raise InputError("the corpus has no emotional speech: every utterance that can be used is neutral")
    both = {cell: rows for cell, rows in emotional.items() if cell[0] in neutral}
    if not both:
        raise InputError("nobody in the corpus speaks both neutrally and emotionally, and a pair is of one speaker")
    return neutral, both


def _other_text(candidates: Sequence[Spoken], source: Spoken, shuffle: random.Random) -> Spoken:
    others = [utterance for utterance in candidates if utterance.text != source.text or not source.text]
    return shuffle.choice(others or list(candidates))


def _shuffled(items: Sequence[Item], shuffle: random.Random) -> list[Item]:
    return shuffle.sample(list(items), len(items))
