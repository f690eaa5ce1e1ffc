"""The anonymizing half of a job: from an index to anonymized parts, to sealed shards that carry nothing of the source.

Sealing shuffles: a shard is chosen by the pseudonym, and rows within it are sorted by it, so that the order of a
released table says nothing of the order in which people were recorded. Parts keep one row a row group, so that any
shard can be gathered without a shuffle through memory. Of the same index equal keys give equal bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from governance.lineage import AnonymizerUsed
from models import registry
from models.catalogue import AnonymizerSpec
from operators.anonymize import Anonymize
from operators.decode import Decode
from operators.encode import Encode
from operators.keys import derive_key, pseudonym
from operators.schema import AUDIO_TYPE, LABELS, QUARANTINE_REASONS, InputError, base_language, released_schema
from operators.screen import Screen
from operators.select import Select
from operators.write import WriteParts
from pipelines.cluster import run_pass
from pipelines.config import Job
from pipelines.reading import finished_ids, read_view
from pipelines.runs import Run
from pipelines.survey import Survey, open_index
from pipelines.usual_pitch import INDEX, goes_by_usual_pitch, measure_usual_pitch

if TYPE_CHECKING:
    from operators.chain import Step
    from pipelines.progress import Track

ROWS_PER_SHARD = 512
ROWS_PER_GROUP = 64


def view_columns(job: Job, survey: Survey) -> tuple[str, ...]:
    """Return the columns that the passes carry: ids, audio, labels, what is kept and what is grouped by."""
    extra = [name for name in (*job.keep_columns, *subgroup_columns(job, survey)) if name not in LABELS]
    return ("utt_id", "speaker_id", "audio", *LABELS, *dict.fromkeys(extra))


def subgroup_columns(job: Job, survey: Survey) -> tuple[str, ...]:
    """Return the columns whose values get figures of their own."""
    if job.subgroups is not None:
        return job.subgroups
    return ("gender",) if "gender" in survey.schema.names else ()


def unusable_ids(run: Run) -> frozenset[str]:
    """Return the ids of the anonymized parts that have a reason why they cannot be used."""
    parts = pds.dataset(run.work / "anonymized", format="parquet")
    return frozenset(parts.to_table(columns=["utt_id"], filter=pds.field("reason") != "")["utt_id"].to_pylist())


def parts_schema(columns: tuple[str, ...]) -> pa.Schema:
    """Return the schema of anonymized parts: private, with the source's ids."""
    carried = [(name, AUDIO_TYPE if name == "audio" else pa.string()) for name in columns]
    added = [("seconds", pa.float64()), ("audio_digest", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
    return pa.schema([("view", pa.string()), *carried, *added])


def anonymize_index(run: Run, survey: Survey, track: "Track") -> None:
    """Fill `work/anonymized` with every row of the index: anonymized, or with the reason why not."""
    job = run.job
    folder = run.parts("anonymized")
    columns = view_columns(job, survey)
    finished = finished_ids(folder, "anonymized")
    usual = measure_usual_pitch(run, survey, INDEX, None, track)
    select = Select("anonymized", columns, excluded=finished | survey.duplicate_ids)
    steps: list[Step] = [
        (Decode, {"folder": survey.folder, "sample_rate": job.sample_rate, "max_seconds": job.max_seconds}),
        (Screen, {"sample_rate": job.sample_rate, "min_seconds": job.min_seconds}),
        (Anonymize, anonymizer_arguments(job, run.key, usual)),
        (Encode, {"sample_rate": job.sample_rate}),
        (WriteParts, {"folder": str(folder.absolute()), "schema": parts_schema(columns), "rows_per_group": 1}),
    ]
    track.begin("anonymize", survey.usable_rows, len(finished))
    dataset = read_view(survey.folder, survey.files, select, survey.schema)
    run_pass(dataset, survey.usable_rows - len(finished), steps, job.workers, job.gpus, track, "anonymize")


def anonymizer_arguments(job: Job, key: bytes, usual: Mapping[str, float] | None) -> dict[str, object]:
    """Return the arguments of the Anonymize operator that speaks for `key`.

    `usual` is the usual pitch of each speaker, None where the anonymizer does not go by it.
    """
    return {
        "anonymizer": job.anonymizer_spec,
        "sample_rate": job.sample_rate,
        "key": derive_key(key, "voices"),
        "voice_level": job.voice_level,
        "usual_pitch": usual,
    }


def anonymizer_used(job: Job) -> AnonymizerUsed:
    """Return the anonymizer of a job, its settings and the digest of both, weights included, as the report names them.

    Raises InputError where the weights cannot be loaded.
    """
    config = {"sample_rate": job.sample_rate, "voice_level": job.voice_level, **anonymizer_weights(job)}
    described = json.dumps([job.anonymizer, config], sort_keys=True)
    return AnonymizerUsed(name=job.anonymizer, config=config, digest=hashlib.sha256(described.encode()).hexdigest())


def choose_anonymizer(job: Job, survey: Survey) -> tuple[Job, AnonymizerUsed, tuple[str, ...]]:
    """Return the job with its context and prosody decided, the anonymizer that it uses (`anonymizer_used`, whose errors
    it raises), and what has to be told of it, a sentence each.

    An auto context becomes causal where people speak what the recogniser who hears whole utterances does not know: he
    would hear English sounds in it. How much is lost by that was measured for emotion (`docs/results.md`), for words it
    was not. An auto prosody becomes full where two emotions or more are labelled: such a corpus is about how things are
    said. A model that has one way only has nothing to decide, but that prosody is full is always told.
    """
    used = anonymizer_used(job)
    decided, told = dict[str, str](), list[str]()
    spoken = {*survey.languages, *([job.language or "en"] if survey.unnamed_language else [])}
    foreign = sorted(language for language in spoken if base_language(language) not in registry.RECOGNISED)
    if job.context == "auto" and "context" in used.config and foreign:
        decided["context"] = "causal"
        told.append(
            f"Some people speak what the recogniser who hears whole utterances does not know ({', '.join(foreign)}), "
            "so every utterance is heard as in a live call (option --context)."
        )
    if job.prosody == "auto" and used.config.get("prosody") == "reduced" and len(survey.emotions) > 1:
        decided["prosody"] = "full"
    if decided:
        job = job.model_copy(update=decided)
        used = anonymizer_used(job)
    if used.config.get("prosody") == "full":
        why = "As asked for" if job.prosody == "full" else "Since the model has no other prosody"
        if "prosody" in decided:
            why = f"Since emotions are labelled ({', '.join(survey.emotions)})"
        heard = goes_by_usual_pitch(job.anonymizer_spec)
        intonation = "intonation, beside the pitch that is usual of each speaker_id," if heard else "intonation"
        told.append(
            f"{why}, {intonation} is kept, and loudness and brightness as far as the model follows them. That tells "
            "more of who speaks (option --prosody)."
        )
    return job, used, tuple(told)


def check_weights(spec: AnonymizerSpec) -> dict[str, str]:
    """Return how the anonymizer hears, its `context`, the digest of the recogniser that it takes, if any, and how much
    `prosody` it keeps; no context where it has only one, and no prosody where it has only one and hears no pitch.

    Raises ValueError or OSError where a model does not fit its networks, a voice bank the model, the context or the
    prosody.

    The weights are mapped and not read, so that it takes a second, and no worker finds out later. Raises as
    `AnonymizerSpec.weights`.
    """
    from models.streamvoiceanon import VoiceBank
    from models.streamvoiceanon.checkpoint import load_networks, resolve
    from models.streamvoiceanon.config import build_networks, context_used, prosody_used, read_states
    from models.streamvoiceanon.model import check_voice

    model, voices = spec.weights()
    states, config = read_states(resolve(model))
    load_networks(build_networks(config), states)
    for voice in VoiceBank.load(voices).voices:
        check_voice(voice, config)
    context, prosody = context_used(spec.context, config), prosody_used(spec.prosody, config)
    settings: dict[str, str] = {}
    if config.full_context is not None:
        settings["context"] = context
    if context == "full":
        settings["recogniser_digest"] = digest_of(registry.resolve(registry.RECOGNISER).digests)
    if config.reduced_prosody is not None or config.content_encoder.pitch_codes:
        settings["prosody"] = prosody
    return settings


def anonymizer_weights(job: Job) -> dict[str, Any]:
    """Return what an anonymizer loads, with digests; nothing for one that needs no weights. Raises InputError."""
    spec = job.anonymizer_spec
    if not spec.neural:
        return {}
    from models.streamvoiceanon.checkpoint import CONFIG_FILE, WEIGHTS_FILE, is_converted, resolve

    try:
        settings = check_weights(spec)
    except (OSError, ValueError) as fault:
        raise InputError(str(fault)) from None
    model, voices = spec.weights()
    folder = resolve(model)
    files = (WEIGHTS_FILE, CONFIG_FILE) if is_converted(folder) else None  # a bank may lie beside them
    return {
        "model": spec.model or registry.ANONYMIZER,
        "model_digest": digest_of(registry.digest(folder, files)),
        "voices_digest": digest_of(registry.digest(voices)),
        "alpha": spec.alpha,
        **settings,
    }


def digest_of(digests: Mapping[str, str]) -> str:
    """Return one digest of several, by name."""
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()


def write_quarantine(run: Run, survey: Survey) -> dict[str, int]:
    """Write `quarantine.parquet` (private: it names source ids) and return the count of each reason."""
    parts = pds.dataset(run.work / "anonymized", format="parquet")
    unusable = parts.to_table(columns=["utt_id", "speaker_id", "reason", "detail"], filter=pds.field("reason") != "")
    rows = unusable.to_pylist()
    number = 0
    faulty = survey.duplicate_rows or survey.missing_id_rows
    for batch in open_index(run.job.index)[0].to_batches(columns=["utt_id", "speaker_id"]) if faulty else ():
        for row in batch.to_pylist():
            number += 1
            if not row["utt_id"] or not row["speaker_id"]:
                rows.append(row | {"reason": "missing_id", "detail": f"row {number} of the index"})
            elif row["utt_id"] in survey.duplicate_ids:
                rows.append(row | {"reason": "duplicate_id", "detail": f"row {number} of the index"})
    rows.sort(key=lambda row: (row["reason"], row["utt_id"] or "", row["detail"]))
    schema = pa.schema([(name, pa.string()) for name in ("utt_id", "speaker_id", "reason", "detail")])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), run.quarantine)
    counts = dict.fromkeys(QUARANTINE_REASONS, 0)
    for row in rows:
        counts[row["reason"]] += 1
    return {reason: count for reason, count in counts.items() if count}


class WriteShard:
    """Writes one shard: its rows, in the order of their pseudonyms, taken from the parts by row group (one a row).

    A shard is written whole or not at all; doing it twice gives the same bytes.
    """

    def __init__(self, key: bytes, folder: str, shards: int, sample_rate: int, schema: pa.Schema) -> None:
        self.key = key
        self.folder = Path(folder)
        self.shards = shards
        self.schema = schema.with_metadata(huggingface_metadata(schema, sample_rate))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for number, rows in zip(batch["shard"], batch["rows"], strict=True):
            path = self.folder / f"data-{number:05d}-of-{self.shards:05d}.parquet"
            temporary = path.with_suffix(".partial")
            with pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer:
                for start in range(0, len(rows), ROWS_PER_GROUP):
                    group = [self.read_row(row["part"], row["group"]) for row in rows[start : start + ROWS_PER_GROUP]]
                    writer.write_table(pa.concat_tables(group).combine_chunks())
            temporary.rename(path)
        return {"rows": np.array([len(rows) for rows in batch["rows"]])}

    def read_row(self, part: str, group: int) -> pa.Table:
        """Return one row under its pseudonyms, with the columns that are released."""
        row = pq.ParquetFile(part).read_row_group(group, columns=["utt_id", *self.schema.names])
        for name, kind in (("utt_id", "utterance"), ("speaker_id", "speaker")):
            keyed = pa.array([pseudonym(self.key, kind, row[name][0].as_py())], pa.string())
            row = row.set_column(row.schema.get_field_index(name), name, keyed)
        columns = [row[field.name].cast(field.type) for field in self.schema]
        return pa.Table.from_arrays(columns, schema=self.schema)


def huggingface_metadata(schema: pa.Schema, sample_rate: int) -> dict[str, str]:
    """Return the constant metadata by which `datasets` sees the audio column as audio."""
    features: dict[str, dict[str, object]] = {}
    for field in schema:
        plain = str(field.type).replace("double", "float64").replace("float", "float32").replace("float3264", "float64")
        features[field.name] = {"dtype": plain, "_type": "Value"}
    features["audio"] = {"sampling_rate": sample_rate, "_type": "Audio"}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def plan_shards(run: Run, shards: int) -> list[dict[str, object]]:
    """Return for each shard its rows (part, row group), shuffled by the key: sorted by pseudonym."""
    plan: list[dict[str, tuple[str, int]]] = [{} for _ in range(shards)]  # by pseudonym: a row written twice is one
    for part in sorted((run.work / "anonymized").glob("*.parquet")):
        table = pq.read_table(part, columns=["utt_id", "reason"])
        for group, row in enumerate(table.to_pylist()):
            if not row["reason"]:
                name = pseudonym(run.key, "utterance", row["utt_id"])
                plan[int(name[:8], 16) % shards].setdefault(name, (str(part.absolute()), group))
    ordered = [[{"part": part, "group": group} for _, (part, group) in sorted(rows.items())] for rows in plan]
    return [{"shard": number, "rows": rows} for number, rows in enumerate(ordered) if rows]


def seal(run: Run, survey: Survey, usable: int) -> int:
    """Write the staged shards from the anonymized parts; return the number of rows in them."""
    import ray.data

    job = run.job
    run.staged.mkdir(exist_ok=True)
    for leftover in run.staged.iterdir():
        leftover.unlink()
    shards = max(1, -(-usable // ROWS_PER_SHARD))
    schema = released_schema({name: survey.schema.field(name).type for name in job.keep_columns})
    write: Any = WriteShard(run.key, str(run.staged.absolute()), shards, job.sample_rate, schema)
    plan = ray.data.from_items(plan_shards(run, shards))
    receipts = plan.map_batches(write.__call__, batch_size=1, num_cpus=0.5)
    rows = sum(int(batch["rows"].sum()) for batch in receipts.iter_batches(batch_size=None))
    if rows != usable:
        raise RuntimeError(f"sealed {rows} rows where {usable} were anonymized; the staged data is incomplete")
    return rows
