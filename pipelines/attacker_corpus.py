"""The corpus that a semi-informed attacker is trained on: who may be in it, and which of its recordings can be used."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as pds
import soundfile

from metrics.validity import refuse_training_overlap
from operators.cut import count_pieces
from operators.decode import Decode, Unusable
from operators.schema import InputError
from operators.select import has_ids
from pipelines.survey import Survey, open_index, read_batches, survey_index

ROWS_AT_ONCE = 16  # of encoded audio, in memory while a corpus is hashed


@dataclass(frozen=True)
class Recording:
    """One utterance to train on: who spoke it, the SHA-256 of its encoded bytes, and how long it is, in seconds."""

    speaker: str
    digest: str
    seconds: float


def survey_training(corpus: str, attacked: Iterable[str]) -> Survey:
    """Survey a training corpus. Raises InputError where it cannot be used or shares a speaker with the `attacked`."""
    survey, speakers = survey_index(corpus), utterances_of(corpus)
    try:
        refuse_training_overlap(list(speakers), list(attacked))
    except ValueError as fault:
        raise InputError(
            f"the attacker's corpus {corpus} cannot be used: {fault}; leave these speakers out, or it would recognise "
            "whom it was trained on"
        ) from None
    if len(speakers) < 2:
        raise InputError(f"the attacker's corpus {corpus} has {len(speakers)} speakers; training needs two at least")
    return survey


def utterances_of(index: str) -> Counter[str]:
    """Return how many utterances an index holds of each speaker. Raises InputError."""
    counts: Counter[str] = Counter()
    for batch in read_batches(open_index(index)[0], ["utt_id", "speaker_id"], index):
        counts.update(batch.filter(has_ids(batch))["speaker_id"].to_pylist())
    return counts


def read_recordings(corpus: str, survey: Survey) -> dict[str, Recording]:
    """Return the utterances of a corpus that can be read, by id; those with repeated ids are left out.

    Raises InputError where they show fewer than two voices twice.
    """
    reader = Decode(survey.folder, 16_000, 0)
    recordings = {}
    columns = ["utt_id", "speaker_id", "audio"]
    for batch in open_index(corpus)[0].to_batches(columns=columns, batch_size=ROWS_AT_ONCE, batch_readahead=1):
        for row in batch.to_pylist():
            if not row["utt_id"] or not row["speaker_id"] or row["utt_id"] in survey.duplicate_ids:
                continue
            try:
                encoded = reader.read(row["audio"])
                seconds = soundfile.info(io.BytesIO(encoded)).duration
            except (Unusable, soundfile.LibsndfileError):
                continue
            digest = hashlib.sha256(encoded).hexdigest()
            recordings[row["utt_id"]] = Recording(row["speaker_id"], digest, seconds)
    check_voices_vary(corpus, recordings)
    return recordings


def check_voices_vary(corpus: str, recordings: dict[str, Recording]) -> None:
    """Raise InputError where nothing can be learnt of how a voice varies."""
    alone = recorded_once(recordings)
    pieces: Counter[str] = Counter()
    for utt_id, recording in recordings.items():
        pieces[recording.speaker] += count_pieces(recording.seconds) if utt_id in alone else 1
    if sum(count > 1 for count in pieces.values()) < 2:
        raise InputError(
            f"the attacker's corpus {corpus} has fewer than two speakers with two utterances, or with one of six "
            "seconds that can be cut, so nothing can be learnt of how a voice varies"
        )


def recorded_once(recordings: dict[str, Recording]) -> frozenset[str]:
    """Return the ids of utterances that are the only one of their speaker: these are cut into pieces."""
    counts = Counter(recording.speaker for recording in recordings.values())
    return frozenset(utt_id for utt_id, recording in recordings.items() if counts[recording.speaker] == 1)


def refuse_shared_recordings(digests: Iterable[str], anonymized: Path) -> None:
    """Raise InputError where a training recording is attacked too, under whatever name.

    `anonymized` holds the parts of the attacked corpus with the digests of what they were made from.
    """
    table = pds.dataset(anonymized, format="parquet").to_table(columns=["audio_digest"])
    shared = set(table["audio_digest"].to_pylist()) & set(digests)
    if shared:
        raise InputError(
            f"{len(shared)} recordings are both in the attacker's training corpus and in the trials, under other "
            "names; leave their speakers out of the training corpus"
        )
