"""The language model's feed: pairs of prepared utterances as batches of codes."""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from models.streamvoiceanon.training.language_model import collate_language_model
from pipelines.training.feed import Batch, item_at
from pipelines.training.pairs import (
    NEUTRAL,
    Pair,
    Pairing,
    Spoken,
    draw_pairs,
    fit_sequence,
    keep_known_emotions,
    split_speakers,
)
from pipelines.training.rows import Rows, timbre_of

CODES = ("frames", "content", "acoustic", "style", "timbre", "timbre_latents")


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made of prepared speech; `known` are the labels of the teacher, None where all will do.

    `max_frames` is the language model's limit for prompt and source together.
    """

    pairing: Pairing
    validation_pairing: Pairing
    known: tuple[str, ...] | None
    prompt_frames: int
    validation_share: float
    validation_pairs: int
    seed: int
    max_frames: int


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
    _, held_out = split_speakers(
        (utterance.speaker_id for utterance in candidates), settings.validation_share, settings.seed
    )
    training = [utterance for utterance in spoken if utterance.speaker_id not in held_out]
    validation = [utterance for utterance in spoken if utterance.speaker_id in held_out]
    return Corpus(training, validation, unknown, too_long)


class CodesFeed:
    """Batches of pairs, new pairs every epoch; see `Feed`."""

    def __init__(self, parts: Path, settings: PairSettings, batch_size: int, teacher: bool) -> None:
        self.rows, self.settings, self.batch_size = Rows(parts), settings, batch_size
        self.columns = (*CODES, "teacher") if teacher else CODES
        self.corpus = divide(list(self.rows.spoken.values()), settings)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self.count = len(self._epoch(0))

    def _draw_epoch(self, epoch: int) -> list[Pair]:
        return draw_pairs(self.corpus.training, self.settings.pairing, self.settings.seed, epoch)

    def pairs(self, number: int) -> list[Pair]:
        """Return the pairs of training batch `number`."""
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        drawn = (item_at(place, self.count, self.settings.seed) for place in places)
        return [self._epoch(epoch)[index] for epoch, index in drawn]

    def names(self, number: int) -> list[str]:
        return [f"{pair.source} after {pair.prompt}" for pair in self.pairs(number)]

    def batch(self, number: int) -> Batch:
        return collate_language_model([self.item(pair) for pair in self.pairs(number)], self.settings.max_frames)

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

    def item(self, pair: Pair) -> dict[str, np.ndarray]:
        """Return a pair as arrays, as `collate_language_model` takes it; an utterance alone is cut after a third."""
        prompt, source = (self.rows.read(name, self.columns) for name in (pair.prompt, pair.source))
        frames, begin = int(source["frames"]), 0
        shown = min(int(prompt["frames"]), self.settings.prompt_frames)
        if pair.prompt == pair.source:
            begin = shown = min(frames // 3, self.settings.prompt_frames)
        item = {
            "prompt_content": prompt["content"][:shown],
            "prompt_acoustic": _books(prompt)[:, :shown],
            "source_content": source["content"][begin:],
            "source_acoustic": _books(source)[:, begin:],
            "style": prompt["style"],
            "timbre": timbre_of(prompt),
        }
        if "teacher" in source:
            item["teacher"] = source["teacher"].reshape(frames, -1)[begin:]
        return item


def _books(row: dict[str, np.ndarray]) -> np.ndarray:
    return row["acoustic"].reshape(-1, int(row["frames"]))


def check_labels(spoken: list[Spoken], settings: PairSettings) -> Corpus:
    """Divide a corpus by its labels alone, before anything is computed. Raises InputError as `divide`."""
    return divide([replace(utterance, frames=1) for utterance in spoken], settings)
