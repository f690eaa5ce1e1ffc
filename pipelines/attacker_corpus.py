"""The corpus that a semi-informed attacker is trained on: who may be in it, which of its recordings can be used, and
how they are anonymized for the training.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.dataset as pds
import soundfile

from metrics.validity import refuse_training_overlap
from operators.cut import Cut, count_pieces
from operators.decode import Decode, Unusable
from operators.keys import derive_key
from operators.schema import InputError
from operators.select import Select, has_ids
from pipelines.audit import speech_steps
from pipelines.cluster import run_pass
from pipelines.reading import finished_ids, read_view
from pipelines.runs import Run
from pipelines.survey import Survey, open_index, read_batches, survey_index
from pipelines.usual_pitch import TRAINING, measure_usual_pitch

if TYPE_CHECKING:
    from operators.chain import Step
    from pipelines.progress import Track

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


def anonymize_corpus(
    run: Run, survey: Survey, recordings: dict[str, Recording], folder: Path, then: "list[Step]", track: "Track"
) -> None:
    """Anonymize the recordings as the audited system does, with a key of the attacker's own, and go on with `then`.

    The last of `then` writes into `folder`; what a former try wrote there is not done again.
    """
    job = run.job
    alone = recorded_once(recordings)
    whole = frozenset(recordings) - alone
    done = finished_ids(folder, "training")
    finished = {utt_id if utt_id in whole else utt_id.rpartition("#")[0] for utt_id in done}
    total = len(whole) + sum(count_pieces(recordings[utt_id].seconds) for utt_id in alone)
    description = "anonymize the attacker's corpus"
    if finished >= recordings.keys():
        track.begin(description, total, len(done))
        return
    usual = measure_usual_pitch(run, survey, TRAINING, frozenset(recordings), track)
    track.begin(description, total, len(done))
    wanted = frozenset(recordings) - finished
    select = Select("training", ("utt_id", "speaker_id", "audio"), only=wanted)
    cut = (Cut, {"wanted": alone & wanted, "sample_rate": job.sample_rate})
    steps = [*speech_steps(job, survey.folder, derive_key(run.key, "attacker training"), usual, cut), *then]
    dataset = read_view(survey.folder, survey.files, select, survey.schema)
    run_pass(dataset, len(wanted), steps, job.workers, job.gpus, track, description)
