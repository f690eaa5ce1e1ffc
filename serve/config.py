"""The configuration of the live service: one YAML file, checked once, for one machine and for a cluster alike."""

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.catalogue import AnonymizerSpec, Prosody
from serve.engine import EngineSettings

SHA256 = r"^[0-9a-f]{64}$"

SLOTS, NETWORK_SLOTS = 32, 4  # calls of a replica: of arithmetic that costs next to nothing, of the network on a CPU
# Ten voices with names that say nothing of anybody, for anonymizers without a bank: there a voice is its seed.
NAMED_SEEDS = {
    name: seed
    for seed, name in enumerate(
        ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jasper"), 1
    )
}


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the field and the mend."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Token(_Section):
    """A bearer token, known by its SHA-256 alone (`voxveil serve --new-token` makes one and prints both)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=SHA256)]
    sessions: Annotated[int, Field(ge=1)] = 8


class Limits(_Section):
    """What a client may ask for. Seconds are of audio, except where the name says otherwise."""

    message_bytes: Annotated[int, Field(ge=1024)] = 1 << 18
    session_seconds: Annotated[float, Field(gt=0)] = 3_600.0
    start_timeout: Annotated[float, Field(gt=0)] = 10.0
    idle_timeout: Annotated[float, Field(gt=0)] = 30.0
    window_seconds: Annotated[float, Field(gt=0)] = 2.0
    patience: Annotated[float, Field(gt=0)] = 10.0
    upload_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    upload_seconds: Annotated[float, Field(gt=0)] = 900.0
    decode_timeout: Annotated[float, Field(gt=0)] = 20.0
    uploads_at_once: Annotated[int, Field(ge=1)] = 2


class Replicas(_Section):
    """How many replicas there may be and what each takes of its machine."""

    minimum: Annotated[int, Field(ge=1)] = 1
    maximum: Annotated[int, Field(ge=1)] = 1
    cpus: Annotated[float, Field(ge=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    target_sessions: Annotated[int | None, Field(ge=1)] = None
    idle_seconds: Annotated[float, Field(ge=0)] = 300.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.maximum < self.minimum:
            raise ValueError("maximum is below minimum")
        return self


class ServeConfig(_Section):
    """The whole of it.

    `anonymizer`, `model`, `voices` (the bank), `alpha`, `prosody` and `compile` are those of a release job, but that
    calls have no labels: auto is reduced wherever the model can. `slots` are the calls that a replica holds; None: as
    many as its anonymizer is known to keep up with. With no `tokens` only this machine may speak to the service, unless
    `open` says that something in front of it keeps strangers out. `tokens_file` is a YAML list of more of them, read
    once by `parse_config`. `origins` are the web pages, besides the service's own, that may use it
    (`https://example.org`).
    """

    anonymizer: str = "streamvoiceanon"
    model: str | None = None
    voices: str | None = None
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    prosody: Prosody = "auto"
    compile: bool = False
    sample_rate: Annotated[int, Field(ge=8_000, le=48_000)] = 16_000
    slots: Annotated[int | None, Field(ge=1, le=1024)] = None
    tick_seconds: Annotated[float | None, Field(ge=0.01, le=0.2)] = None
    named_seeds: dict[str, Annotated[int, Field(ge=0, lt=2**64)]] = NAMED_SEEDS
    tokens: tuple[Token, ...] = ()
    tokens_file: str | None = None
    open: bool = False
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    replicas: Replicas = Replicas()
    drain_seconds: Annotated[float, Field(ge=0)] = 2.0

    @field_validator("tokens")
    @classmethod
    def _names_differ(cls, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        if len({token.name for token in tokens}) < len(tokens):
            raise ValueError("two tokens have the same name")
        return tokens

    @model_validator(mode="after")
    def _anonymizer_is_complete(self) -> Self:
        self.anonymizer_spec.check()
        return self

    @property
    def anonymizer_spec(self) -> AnonymizerSpec:
        """The anonymizer with all that it loads; on the replica's own GPU where it has one."""
        device = "cuda" if self.replicas.gpus else "cpu"
        return AnonymizerSpec(
            self.anonymizer, self.model, self.voices, self.alpha, device, self.compile, prosody=self.prosody
        )

    @property
    def capacity(self) -> int:
        """Calls that a replica holds."""
        spec = self.anonymizer_spec
        return self.slots or (NETWORK_SLOTS if spec.neural and spec.device == "cpu" else SLOTS)

    def engine_settings(self) -> EngineSettings:
        """Return what the engine needs to know."""
        limits = self.limits
        return EngineSettings(self.capacity, self.tick_seconds, window=limits.window_seconds, patience=limits.patience)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file; raises ConfigError. Its paths start where the file lies."""
    content = _read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the file: must be a mapping of fields to values, such as `slots: 32`")
    return content | absolute_paths(content, path.parent)


def absolute_paths(content: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return the fields that name a file or folder below `folder`, made absolute: a replica runs elsewhere."""
    named = {field: content.get(field) for field in ("model", "voices", "tokens_file")}
    return {
        field: str((folder / value).resolve())
        for field, value in named.items()
        if isinstance(value, str) and (folder / value).exists()
    }


def parse_config(content: object, source: str = "configuration") -> ServeConfig:
    """Return plain data as a configuration, with the tokens of its `tokens_file`.

    Raises ConfigError that names the field.
    """
    config = _validated(content, source)
    if config.tokens_file is None:
        return config
    plain = config.model_dump()
    listed = read_tokens(Path(config.tokens_file))
    return _validated(plain | {"tokens": [*plain["tokens"], *listed], "tokens_file": None}, config.tokens_file)


def read_tokens(path: Path) -> list[object]:
    """Return the tokens that a YAML file lists; raises ConfigError where there are none, lest a service start open."""
    listed = _read_yaml(path)
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path}: the file: must be a list of tokens, such as `- {{name: a, sha256: …}}`")
    return listed


def _validated(content: object, source: str) -> ServeConfig:
    try:
        return ServeConfig.model_validate(content)
    except ValidationError as fault:
        error = fault.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in error["loc"])
        why = error["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{source}: {place}: {why}" if place else f"{source}: {why}") from None


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(f"{path}: {str(fault).splitlines()[0]}") from None
