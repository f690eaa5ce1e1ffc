"""A job's configuration: one pydantic model, read from YAML, from options, or from both (options win).

The descriptions here are what `--help` shows; a field added here is an option of `release` and `audit` at once.
"""

import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.catalogue import AnonymizerSpec, Context, Prosody
from operators.keys import MINIMUM_KEY_BYTES
from operators.schema import InputError

Fields = TypeVar("Fields", bound=BaseModel)
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# What only the audit reads: `voxveil anonymize` has no options for these.
AUDIT_FIELDS = frozenset({"profile", "policy", "attacker", "attacker_corpus", "trials", "subgroups", "seed"})


def plain_name(name: str) -> str:
    """Return a name that can be a folder and an experiment; raises ValueError."""
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError("use letters, digits, dots, dashes and underscores, 64 at most, a letter or digit first")
    return name


def absolute_output(output: Path) -> Path:
    """Return the folder as workers can use it, who have other working folders, on a cluster above all; raises
    ValueError for a URI."""
    if ":/" in str(output):
        raise ValueError("a URI cannot be written to; name a folder that all workers share")
    return output.absolute()


Name = Annotated[str, AfterValidator(plain_name)]
Output = Annotated[Path, AfterValidator(absolute_output)]


class Job(BaseModel):
    """What to release or audit, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str = Field(min_length=1, description="Parquet file, folder or URI (s3://…) of the corpus.")
    name: Name = Field(description="Name of the dataset; also its MLflow experiment.")
    output: Output = Field(
        Path("voxveil-out"), validate_default=True, description="Folder under which everything is written."
    )
    anonymizer: str = Field(
        "streamvoiceanon",
        description="Anonymizer: streamvoiceanon, mcadams (a baseline), or identity (changes nothing: the control).",
    )
    model: str | None = Field(
        None,
        description="streamvoiceanon: checkpoint folder, Plachta/StreamVoiceAnon, or models:/name/version; "
        "default: the embedded one.",
    )
    voices: str | None = Field(
        None, description="streamvoiceanon: voice bank, made by `voxveil voices build`; default: the embedded one."
    )
    alpha: float = Field(1.0, ge=0, le=1, description="streamvoiceanon: 1 the bank's voices as they are, 0 noise.")
    context: Context = Field(
        "auto",
        description="streamvoiceanon: full hears each utterance to its end before it speaks, and loses fewer words; "
        "causal hears what a live call hears; auto is full where the model can and everybody speaks English.",
    )
    prosody: Prosody = Field(
        "auto",
        description="streamvoiceanon: full keeps intonation, loudness and brightness, so that emotions can be told; "
        "reduced keeps half of the intonation alone, so that speakers are harder to tell; auto is full where the index "
        "labels two emotions or more, reduced elsewhere.",
    )
    voice_level: Literal["utterance", "speaker"] = Field(
        "utterance", description="A new pseudo-voice for every utterance, or one a speaker (readable, but linkable)."
    )
    profile: Literal["embedded", "standard"] = Field("embedded", description="Auditors: embedded needs no network.")
    policy: str = Field("default", description="Policy: `default`, or a YAML file.")
    key_env: str = Field(
        "VOXVEIL_KEY",
        description="Environment variable with the pseudonym key in hex; unset: a key for this run alone.",
    )
    attacker_corpus: str | None = Field(
        None,
        description="Index to train the semi-informed attacker on, of other speakers; default: folds of the corpus.",
    )
    attacker: str | None = Field(
        None, description="A trained attacker: its folder, or models:/name/version; made by `voxveil attacker train`."
    )
    trials: str | None = Field(
        None, description="Table of official trials (`prepare vpc`); default: the one beside the index, or drawn."
    )
    keep_columns: tuple[str, ...] = Field(
        (), description="Columns to release besides ids and audio, e.g. text,emotion."
    )
    subgroups: tuple[str, ...] | None = Field(
        None, description="Columns whose values get figures of their own; default: gender where the index has it."
    )
    language: str | None = Field(
        None, description="Language code of rows whose column `language` says nothing; default: en."
    )
    sample_rate: int = Field(16_000, ge=8_000, le=48_000, description="Sample rate of the released audio, hertz.")
    min_seconds: float = Field(0.5, ge=0, description="Shorter utterances are quarantined.")
    max_seconds: float = Field(120.0, gt=0, le=3600, description="Longer utterances are quarantined.")
    seed: int = Field(0, description="Seed of the enrolment split and of the bootstrap.")
    workers: int | None = Field(None, ge=1, description="Actors at most; default: one a CPU core.")
    gpus: float = Field(
        default_factory=lambda fields: gpus_here(fields.get("anonymizer", "")),
        ge=0,
        description="GPUs (or a fraction) for each actor; default: one where there are some, for a neural anonymizer.",
    )
    compile: bool = Field(False, description="streamvoiceanon on a GPU: torch.compile, minutes at the start.")

    @field_validator("keep_columns", "subgroups", mode="before")
    @classmethod
    def split_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("keep_columns")
    @classmethod
    def ids_are_not_kept(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        for name in columns:
            if name in ("utt_id", "speaker_id", "audio"):
                raise ValueError(f"{name} is released anyway, in its anonymized form; leave it out")
        return columns

    @model_validator(mode="after")
    def one_attacker_at_most(self) -> Self:
        if self.attacker is not None and self.attacker_corpus is not None:
            raise ValueError("name an attacker that was trained, or a corpus to train one on, not both")
        return self

    @model_validator(mode="after")
    def some_length_is_allowed(self) -> Self:
        if self.min_seconds >= self.max_seconds:
            raise ValueError("min_seconds is not below max_seconds, so no utterance could be used")
        return self

    @model_validator(mode="after")
    def anonymizer_is_complete(self) -> Self:
        self.anonymizer_spec.check()
        return self

    @property
    def anonymizer_spec(self) -> AnonymizerSpec:
        """The anonymizer with all that it loads."""
        device = "cuda" if self.gpus else "cpu"
        return AnonymizerSpec(
            self.anonymizer, self.model, self.voices, self.alpha, device, self.compile, self.context, self.prosody
        )

    def folder(self) -> Path:
        """The dataset's own folder: runs and, after a release, the released data lie in it."""
        return self.output / self.name


def load_job(config: Path | None, options: dict[str, Any]) -> Job:
    """Return the job of a YAML file and the options given (None: not given). Raises InputError, one line."""
    paths = ("index", "policy", "model", "voices", "attacker", "attacker_corpus", "trials")
    return load_fields(Job, config, options, paths)


def load_fields(kind: type[Fields], config: Path | None, options: dict[str, Any], paths: tuple[str, ...]) -> Fields:
    """Return a model of the fields in a YAML file and the options given (None: not given). Raises InputError, one line.

    `paths` are the fields that start where the file lies.
    """
    fields: dict[str, Any] = {}
    source = "the options"
    if config is not None:
        import yaml

        source = str(config)
        try:
            fields = yaml.safe_load(config.read_text()) or {}
        except (OSError, UnicodeDecodeError) as fault:
            why = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8 text"
            raise InputError(f"cannot read the job file {config}: {why}") from None
        except yaml.YAMLError as fault:
            raise InputError(f"{config} is not YAML: {str(fault).splitlines()[0]}") from None
        if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
            raise InputError(f"{config} must be a mapping of fields to values, such as `index: corpus/index.parquet`")
        for name in paths:
            value = fields.get(name)
            if isinstance(value, str) and "://" not in value and (config.parent / value).exists():
                fields[name] = str(config.parent / value)
    fields |= {name: value for name, value in options.items() if value is not None}
    try:
        return kind(**fields)
    except ValidationError as fault:
        first = fault.errors()[0]
        field = ".".join(map(str, first["loc"])) or "job"
        known = f" Fields: {', '.join(kind.model_fields)}." if first["type"] == "extra_forbidden" else ""
        problem = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        where, option = "", ""
    if first["loc"]:
        where, option = f"{field}: ", f" (option --{field.replace('_', '-')})" if kind is Job else ""
    raise InputError(f"{source}: {where}{problem}{option}.{known}") from None


def gpus_here(anonymizer: str) -> float:
    """Return how many GPUs an actor gets where nobody said: one, for a neural anonymizer on a machine that has some."""
    if anonymizer != "streamvoiceanon":
        return 0.0
    import torch

    return 1.0 if torch.cuda.is_available() else 0.0


def job_key(job: Job) -> bytes | None:
    """Return the key of the environment, or None where the variable is not set. Raises InputError."""
    text = os.environ.get(job.key_env)
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise InputError(f"the key in {job.key_env} is not hexadecimal; make one with `openssl rand -hex 32`") from None
    if len(key) < MINIMUM_KEY_BYTES:
        raise InputError(
            f"the key in {job.key_env} is shorter than {MINIMUM_KEY_BYTES} bytes; make one with `openssl rand -hex 32`"
        )
    return key


def ephemeral_key() -> bytes:
    """Return a key for one run."""
    return secrets.token_bytes(32)
