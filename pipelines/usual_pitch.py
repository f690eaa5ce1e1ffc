"""What pitch is usual of each speaker, for anonymizers that tell by it how an utterance differs from the others.

Somebody who is angry speaks higher than otherwise, in the whole of an utterance; beside its own mean alone, that
cannot be heard. What is usual itself is taken away, and hardly told by what is spoken, as long as every speaker_id is
one person: where it stands for several, how high each of them speaks is told.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
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

INDEX, TRAINING = "pitch", "attacker-pitch"  # the steps' names: of the index, and of the attacker's own corpus
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("view", "utt_id", "speaker_id")),
        ("octaves", pa.float64()),
        ("voiced", pa.int64()),
        ("reason", pa.string()),
    ]
)
UNIT = 1e-6  # octaves: sums of whole numbers do not hang on the order in which workers finished


def goes_by_usual_pitch(spec: AnonymizerSpec) -> bool:
    """Whether an anonymizer hears pitch, and keeps its full prosody. Raises CheckpointError."""
    if not spec.neural:
        return False
    from models.streamvoiceanon.checkpoint import resolve
    from models.streamvoiceanon.config import prosody_used, read_config

    config = read_config(resolve(spec.weights()[0]))
    return bool(config.content_encoder.pitch_codes) and prosody_used(spec.prosody, config) == "full"


def measure_usual_pitch(
    run: Run, survey: Survey, name: str, wanted: frozenset[str] | None, track: "Track"
) -> Mapping[str, float] | None:
    """Measure the pitch of the `wanted` utterances of an index, all that have an id of their own for None, and return
    their speakers' usual one as `read_usual_pitch`; what a former try measured is not measured again.

    `name` is that of the step, INDEX or TRAINING. None, and nothing is measured, where the job's anonymizer does not go
    by it.
    """
    job = run.job
    if not goes_by_usual_pitch(job.anonymizer_spec):
        return None
    folder, description = run.parts(name), f"listen for the usual pitch{' of others' if name == TRAINING else ''}"
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
    return read_usual_pitch(run, name)


def read_usual_pitch(run: Run, name: str, wanted: frozenset[str] | None = None) -> Mapping[str, float] | None:
    """Return the mean pitch of every speaker over the `wanted` utterances, all that were measured for None, in octaves
    above 1 Hz; of nobody whose utterances have none, and None where the job's anonymizer does not go by it.

    Raises RuntimeError where the step measured nothing.
    """
    if not goes_by_usual_pitch(run.job.anonymizer_spec):
        return None
    if not any((run.work / name).glob("*.parquet")):
        raise RuntimeError(f"no pitch was measured in {run.work / name}: the work folder of the run is not whole")
    measured = pds.dataset(run.work / name, format="parquet", schema=SCHEMA)
    heard = measured.to_table(["utt_id", "speaker_id", "octaves", "voiced"], filter=pds.field("voiced") > 0)
    if wanted is not None:
        heard = heard.filter(pc.is_in(heard["utt_id"], pa.array(sorted(wanted), pa.string())))
    # A row that was written twice counts once.
    rows = heard.group_by(["utt_id", "speaker_id"]).aggregate([("octaves", "min"), ("voiced", "min")])
    units = pc.round(pc.divide(pc.multiply(rows["octaves_min"], rows["voiced_min"]), UNIT)).cast(pa.int64())
    people = pa.table({"speaker": rows["speaker_id"], "units": units, "voiced": rows["voiced_min"]})
    sums = people.group_by("speaker").aggregate([("units", "sum"), ("voiced", "sum")])
    means = pc.divide(pc.multiply(sums["units_sum"].cast(pa.float64()), UNIT), sums["voiced_sum"])
    return dict(zip(sums["speaker"].to_pylist(), means.to_pylist(), strict=True))
