"""The language model's feed: pairs of prepared utterances as batches of codes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from models.streamvoiceanon.training.language_model import ALONGSIDE, collate_language_model
from models.streamvoiceanon.training.perturb import perturb
from pipelines.training.feed import Batch, item_at
from pipelines.training.pairs import (
    NEUTRAL,
    Pair,
    Pairing,
    Spoken,
    draw_pairs,
    fit_sequence,
    keep_known_emotions,
    name_speakers,
    split_speakers,
)
from pipelines.training.rows import Rows, timbre_of, wave_of

EPOCHS = 2  # whose pairs are kept: a batch may begin in one and end in the next
ALIKE = 16  # batches among whose pairs similar lengths are sought
HEARD = 0.75  # share of the sources that are heard as somebody else says them, where somebody does
CODES = ("frames", "content", "acoustic", "style", "timbre", "timbre_latents")


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made of prepared speech; `known` are the labels of the teacher, None where all will do.

    Held out are the `validation_speakers`, or where none are named a `validation_share` of all.
    `max_frames` is the language model's limit for prompt and source together. With `by_length` a batch holds sources of
    similar lengths, so that little of it is padding. A share `begun` of the training sources begins somewhere in the
    first half of its utterance, as what follows a refilled prompt does.
    """

    pairing: Pairing
    validation_pairing: Pairing
    known: tuple[str, ...] | None
    prompt_frames: int
    validation_share: float
    validation_pairs: int
    seed: int
    max_frames: int
    by_length: bool = False
    begun: float = 0.0
    validation_speakers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hearing:
    """What an encoder hears that learns beside the language model: a share `perturbed` in another voice and room."""

    sample_rate: int
    perturbed: float


@dataclass(frozen=True)
class Corpus:
    """Utterances to train on and those of held-out speakers, and what was left out."""

    training: list[Spoken]
    validation: list[Spoken]
    unknown: list[str]
    too_long: int


def divide(spoken: list[Spoken], settings: PairSettings) -> Corpus:
    """Return what can be paired, speakers kept apart. Raises InputError that says why nothing can be.

    Held out are speakers who can be paired as validation wants it. Emotional pairs leave out unknown labels.
    """
    unknown: list[str] = []
    emotional = "emotional" in (settings.pairing, settings.validation_pairing)
    if emotional:
        spoken, unknown = keep_known_emotions(spoken, settings.known)
    spoken, too_long = fit_sequence(spoken, settings.prompt_frames, settings.max_frames)
    candidates = spoken
    if emotional:
        draw_pairs(spoken, "emotional", 0, 0)  # says why, where there are none
        neutral = {utterance.speaker_id for utterance in spoken if utterance.emotion == NEUTRAL}
        both = neutral & {utterance.speaker_id for utterance in spoken if utterance.emotion != NEUTRAL}
        candidates = [utterance for utterance in spoken if utterance.speaker_id in both]
    speakers = {utterance.speaker_id for utterance in candidates}
    if settings.validation_speakers:
        held_out = name_speakers(speakers, settings.validation_speakers)
    else:
        _, held_out = split_speakers(speakers, settings.validation_share, settings.seed)
    training = [utterance for utterance in spoken if utterance.speaker_id not in held_out]
    validation = [utterance for utterance in spoken if utterance.speaker_id in held_out]
    return Corpus(training, validation, unknown, too_long)


class CodesFeed:
    """Batches of pairs, new pairs every epoch; see `Feed`."""

    def __init__(
        self,
        parts: Path,
        settings: PairSettings,
        batch_size: int,
        teacher: bool,
        frame_samples: int = 0,
        nearest: int = 1,
        hearing: Hearing | None = None,
    ) -> None:
        """With a `teacher` its frames are read as well; with `frame_samples`, how many a frame has, the recordings that
        the acoustic codes are of; with `hearing` what is heard of them. Content is of an encoder that hears `nearest`
        codes at once.
        """
        self.rows, self.settings, self.batch_size = Rows(parts), settings, batch_size
        self.frame_samples, self.nearest, self.hearing = frame_samples, nearest, hearing
        told = ["teacher"] * teacher + ["audio"] * bool(frame_samples) + ["heard"] * bool(hearing)
        self.columns = (*CODES, *told)
        self.corpus = divide(list(self.rows.spoken.values()), settings)
        self._drawn: dict[int, list[Pair]] = {}  # the last EPOCHS that were drawn
        self.count = len(self._epoch(0))

    def _epoch(self, epoch: int) -> list[Pair]:
        if epoch not in self._drawn:
            self._drawn[epoch] = self._draw_epoch(epoch)
            if len(self._drawn) > EPOCHS:
                del self._drawn[next(iter(self._drawn))]
        return self._drawn[epoch]

    def _draw_epoch(self, epoch: int) -> list[Pair]:
        """Return the pairs of an epoch in the order in which they are read."""
        settings = self.settings
        pairs = draw_pairs(self.corpus.training, settings.pairing, settings.seed, epoch)
        if not settings.by_length:
            return [
                pairs[item_at(epoch * len(pairs) + place, len(pairs), settings.seed)[1]] for place in range(len(pairs))
            ]
        begun = -epoch * len(pairs) % self.batch_size  # so many fill up the last batch of the epoch before
        frames = {name: utterance.frames for name, utterance in self.rows.spoken.items()}
        return pairs[:begun] + group_by(
            pairs[begun:], lambda pair: frames[pair.source], self.batch_size, settings.seed + epoch
        )

    def pairs(self, number: int) -> list[Pair]:
        """Return the pairs of training batch `number`."""
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        return [self._epoch(epoch)[index] for epoch, index in (divmod(place, self.count) for place in places)]

    def names(self, number: int) -> list[str]:
        return [f"{pair.source} after {pair.prompt}" for pair in self.pairs(number)]

    def batch(self, number: int) -> Batch:
        random = np.random.default_rng([self.settings.seed, number, 2])
        items = [self.item(pair, random) for pair in self.pairs(number)]
        begun = [begin_within(item, random) if random.random() < self.settings.begun else item for item in items]
        return collate_language_model(begun, self.settings.max_frames)

    def validation_pairs(self) -> list[Pair]:
        """Return the pairs of held-out speakers, always the same."""
        pairs = draw_pairs(self.corpus.validation, self.settings.validation_pairing, 0, 0)
        return pairs[: self.settings.validation_pairs]

    def validation(self) -> list[Batch]:
        items = iter(self.item(pair) for pair in self.validation_pairs())
        batches = []
        while group := list(islice(items, self.batch_size)):
            batches.append(collate_language_model(group, self.settings.max_frames))
        return batches

    def item(self, pair: Pair, random: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Return a pair as arrays, as `collate_language_model` takes it; an utterance alone is cut after a third.

        The content is one of those that were drawn of each utterance, without `random` the first; a prompt's, like a
        voice's in a bank, the likeliest codes alone.
        """
        prompt, source = self.rows.read(pair.prompt, CODES), self.rows.read(pair.source, self.columns)
        frames, begin = int(source["frames"]), 0
        shown = min(int(prompt["frames"]), self.settings.prompt_frames)
        if pair.prompt == pair.source:
            begin = shown = min(frames // 3, self.settings.prompt_frames)
        said = self.content(source, random)
        item = {
            "prompt_content": codes_of(self.content(prompt, random))[:shown],
            "prompt_acoustic": _books(prompt)[:, :shown],
            "source_content": said[begin:] if self.hearing is None else codes_of(said)[begin:],
            "source_acoustic": _books(source)[:, begin:],
            "style": prompt["style"],
            "timbre": timbre_of(prompt),
        }
        if "teacher" in source:
            item["teacher"] = source["teacher"].reshape(frames, -1)[begin:]
        if "audio" in source:
            item["samples"] = self._framed(wave_of(source), frames)[begin:]
        if self.hearing is not None:
            item["heard"] = self._framed(self._heard(source, random), frames)[begin:]
        return item

    def _framed(self, wave: np.ndarray, frames: int) -> np.ndarray:
        return wave[: frames * self.frame_samples].reshape(frames, -1)

    def _heard(self, row: dict[str, np.ndarray], random: np.random.Generator | None) -> np.ndarray:
        """Return what is heard of a row, [samples]: without `random` somebody else, where there is somebody."""
        other = row["heard"].item()["bytes"] is not None and (random is None or random.random() < HEARD)
        wave = wave_of(row, "heard" if other else "audio")
        if self.hearing is None or random is None or random.random() >= self.hearing.perturbed:
            return wave
        return perturb(wave, self.hearing.sample_rate, random)

    def content(self, row: dict[str, np.ndarray], random: np.random.Generator | None = None) -> np.ndarray:
        """Return the content of a row, int64 [frames] or float32 [frames, nearest, 2]; without `random` the first."""
        several = () if self.nearest == 1 else (self.nearest, 2)
        drawn = row["content"].reshape(-1, int(row["frames"]), *several)
        content = drawn[0 if random is None else int(random.integers(len(drawn)))]
        return content if several else content.astype(np.int64)


def codes_of(content: np.ndarray) -> np.ndarray:
    """Return the likeliest codes, int64 [frames], of content."""
    return content if content.ndim == 1 else content[:, 0, 0].astype(np.int64)


def group_by(pairs: list[Pair], length: Callable[[Pair], int], size: int, seed: int) -> list[Pair]:
    """Order pairs so that every `size` of them are of similar lengths, and what follows what is as random as before."""
    alike = [
        pair
        for first in range(0, len(pairs), ALIKE * size)
        for pair in sorted(pairs[first : first + ALIKE * size], key=length)
    ]
    whole = len(alike) // size
    order = np.random.default_rng([seed, len(pairs), 3]).permutation(whole)
    return [pair for group in order for pair in alike[group * size : (group + 1) * size]] + alike[whole * size :]


def begin_within(item: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return an item whose source begins somewhere in its first half."""
    first = int(random.integers(0, item["source_content"].shape[0] // 2 + 1))
    cut = {name: item[name][first:] for name in ("source_content", *ALONGSIDE) if name in item}
    return item | cut | {"source_acoustic": item["source_acoustic"][:, first:]}


def _books(row: dict[str, np.ndarray]) -> np.ndarray:
    return row["acoustic"].reshape(-1, int(row["frames"]))


def check_labels(spoken: list[Spoken], settings: PairSettings) -> Corpus:
    """Divide a corpus by its labels alone, before anything is computed. Raises InputError as `divide`."""
    return divide([replace(utterance, frames=1) for utterance in spoken], settings)
