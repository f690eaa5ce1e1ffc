"""The data contract: the columns of an index, the reasons for quarantine, and the shape of a released table.

An index is Parquet with Hugging Face's `datasets.Audio` layout, so that corpora come in and go out as they are used
elsewhere. Everything that reads or writes a table takes its names from here.
"""

import pyarrow as pa

AUDIO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
REQUIRED_COLUMNS = ("utt_id", "speaker_id", "audio")
LABELS = ("text", "emotion", "language", "session")  # what the audits read besides, where it is there


# Why a row cannot be used: the keys are stored, the sentences are what people read.
QUARANTINE_REASONS = {
    "missing_id": "the row has no utt_id or no speaker_id",
    "duplicate_id": "several rows carry this utt_id, and which of them is meant cannot be known",
    "missing_audio": "the row has neither audio bytes nor a path",
    "path_outside": "the audio path leaves the folder of the index",
    "file_missing": "the audio file does not exist",
    "unreadable": "the audio is not a sound file, or it is damaged",
    "empty": "the audio holds no samples",
    "too_short": "the audio is shorter than the job's min_seconds",
    "too_long": "the audio is longer than the job's max_seconds",
    "non_finite": "the audio holds samples that are not numbers",
    "silent": "the audio is silent",
    "clipped": "so much of the audio is at full scale that the speech is damaged",
    "failed": "the anonymizer could not process the audio",
    "damaged": "the alignment or the other recording that was given for the audio is damaged",
}


def base_language(code: str) -> str:
    """Return the language of a tag such as `en-US` or `EN_us`: `en`."""
    return code.replace("_", "-").split("-")[0].strip().lower()


class InputError(ValueError):
    """The job's input is wrong; the message names what, where and the mend, on one line."""


def check_columns(schema: pa.Schema, source: str, extra: tuple[str, ...] = ()) -> None:
    """Raise InputError unless `schema` has the required columns (and `extra`) with usable types."""
    missing = [name for name in (*REQUIRED_COLUMNS, *extra) if name not in schema.names]
    if missing:
        raise InputError(
            f"{source} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {', '.join(schema.names) or 'none'}. `voxveil prepare --help` shows how to make an index."
        )
    for name in ("utt_id", "speaker_id"):
        kind = schema.field(name).type
        if not is_text(kind):
            raise InputError(f"{source}: the column {name} is {kind}; it must be a string: cast it")
    audio = schema.field("audio").type
    parts = {field.name: field.type for field in audio} if pa.types.is_struct(audio) else {}
    unset = pa.types.is_null  # the type of a field that no row sets
    if {"bytes", "path"} - parts.keys() or not (
        (is_bytes(parts["bytes"]) or unset(parts["bytes"])) and (is_text(parts["path"]) or unset(parts["path"]))
    ):
        raise InputError(f"{source}: the column audio is {audio}; it must be struct<bytes: binary, path: string>")
    for name in LABELS:
        kind = schema.field(name).type if name in schema.names else pa.string()
        if not survives_as_text(kind):
            raise InputError(f"{source}: the column {name} is {kind}; it must be a string: cast it, or rename it")


def is_text(kind: pa.DataType) -> bool:
    """Say whether a type is a string of either length, or a category of strings, as pandas writes it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Say whether a type is binary of either length."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def survives_as_text(kind: pa.DataType) -> bool:
    """Say whether values of a type come back from strings, as which all columns but the audio are carried."""
    if pa.types.is_null(kind):
        return True
    if pa.types.is_nested(kind) or is_bytes(kind):
        return False
    try:
        pa.array([], kind).cast(pa.string()).cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def released_schema(keep: dict[str, pa.DataType]) -> pa.Schema:
    """Return the schema of a released table: pseudonymous ids, audio, and the columns that the job names.

    A column without any value, which Arrow gives a type of its own, becomes one of strings.
    """
    fields = [("utt_id", pa.string()), ("speaker_id", pa.string()), ("audio", AUDIO_TYPE)]
    kept = [(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in keep.items()]
    return pa.schema(fields + kept)
