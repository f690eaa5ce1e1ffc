"""What pitch is usual of each speaker, for anonymizers that tell by it how an utterance differs from the others.

Somebody who is angry speaks higher than otherwise, in the whole of an utterance; beside its own mean alone, that
cannot be heard. What is usual itself is told by nothing that is spoken.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pds

from models.catalogue import AnonymizerSpec
from operators.decode import Decode
from operators.measure_pitch import SAMPLE_RATE, MeasurePitch
from operators.screen import Screen
from operators.select import Select
from operators.write import WriteParts
from pipelines.cluster import run_pass
from pipelines.reading import finished_ids, read_view
from pipelines.runs import Run
from pipelines.survey import Survey

if TYPE_CHECKING:
    from operators.chain import Step
    from pipelines.progress import Track

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("view", "utt_id", "speaker_id")),
        ("octaves", pa.float64()),
        ("voiced", pa.int64()),
        ("reason", pa.string()),
    ]
)


def goes_by_usual_pitch(spec: AnonymizerSpec) -> bool:
    """Whether an anonymizer hears pitch and keeps all of its movement. Raises CheckpointError."""
    if not spec.neural:
        return False
    from models.streamvoiceanon.checkpoint import resolve
    from models.streamvoiceanon.config import read_config
    from models.streamvoiceanon.model import prosody_used

    config = read_config(resolve(spec.weights()[0]))
    return bool(config.content_encoder.pitch_codes) and prosody_used(spec.prosody, config) == "full"


def learn_usual_pitch(
    run: Run, survey: Survey, name: str, wanted: frozenset[str] | None, track: "Track"
) -> Mapping[str, float] | None:
    """Measure the pitch of the `wanted` utterances of an index, all that have an id of their own for None, and return
    their speakers' usual one as `usual_pitch`; what a former try measured is not measured again.

    None, and nothing is measured, where the job's anonymizer does not go by it.
    """
    job = run.job
    if not goes_by_usual_pitch(job.anonymizer_spec):
        return None
    folder, description = run.parts(name), "listen for the usual pitch"
    finished = finished_ids(folder, "pitch")
    rows = survey.usable_rows if wanted is None else len(wanted)
    track.begin(description, rows, len(finished))
    if len(finished) < rows:
        select = Select("pitch", ("utt_id", "speaker_id", "audio"), finished | survey.duplicate_ids, only=wanted)
        steps: list[Step] = [
            (Decode, {"folder": survey.folder, "sample_rate": SAMPLE_RATE, "max_seconds": job.max_seconds}),
            (Screen, {"sample_rate": SAMPLE_RATE, "min_seconds": job.min_seconds}),
            (MeasurePitch, {}),
            (WriteParts, {"folder": str(folder.absolute()), "schema": SCHEMA}),
        ]
        dataset = read_view(survey.folder, survey.files, select, survey.schema)
        run_pass(dataset, rows - len(finished), steps, job.workers, 0.0, track, description)
    return usual_pitch(run, name)


def usual_pitch(run: Run, name: str, wanted: frozenset[str] | None = None) -> Mapping[str, float] | None:
    """Return the mean pitch of every speaker over the `wanted` utterances, all that were measured for None, in octaves
    above 1 Hz; of nobody whose utterances have none, and None where the job's anonymizer does not go by it."""
    if not goes_by_usual_pitch(run.job.anonymizer_spec):
        return None
    table = pds.dataset(run.parts(name), format="parquet", schema=SCHEMA).to_table()
    heard: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in table.to_pylist():
        if row["voiced"] and (wanted is None or row["utt_id"] in wanted):
            heard[row["speaker_id"]].append((row["octaves"] * row["voiced"], row["voiced"]))
    # Sums that are exact do not hang on the order in which workers finished.
    return {
        speaker: math.fsum(total for total, _ in own) / sum(count for _, count in own) for speaker, own in heard.items()
    }
