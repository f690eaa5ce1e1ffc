"""The configuration of the live service: one YAML file, checked once, for one machine and for a cluster alike."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serve.engine import EngineSettings

SHA256 = r"^[0-9a-f]{64}$"

# Ten voices with names that say nothing of anybody. A voice is its seed; its sound is the anonymizer's matter.
VOICES = {
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

    @model_validator(mode="after")
    def _in_order(self) -> "Replicas":
        if self.maximum < self.minimum:
            raise ValueError("maximum is below minimum")
        return self


class ServeConfig(_Section):
    """The whole of it.

    With no `tokens` only this machine may speak to the service, unless `open` says that something in front of it keeps
    strangers out. `origins` are the web pages, besides the service's own, that may use it (`https://example.org`).
    """

    anonymizer: str = "mcadams"
    sample_rate: Annotated[int, Field(ge=8_000, le=48_000)] = 16_000
    slots: Annotated[int, Field(ge=1, le=1024)] = 32
    tick_seconds: Annotated[float, Field(ge=0.01, le=0.2)] = 0.04
    voices: dict[str, Annotated[int, Field(ge=0, lt=2**64)]] = VOICES
    tokens: tuple[Token, ...] = ()
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

    def engine_settings(self) -> EngineSettings:
        """Return what the engine needs to know."""
        limits = self.limits
        return EngineSettings(self.slots, self.tick_seconds, window=limits.window_seconds, patience=limits.patience)


def read_config(path: Path) -> ServeConfig:
    """Return the configuration in a YAML file; raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(f"{path}: {str(fault).splitlines()[0]}") from None
    return parse_config(content if content is not None else {}, str(path))


def parse_config(content: object, source: str = "configuration") -> ServeConfig:
    """Return plain data as a configuration; raises ConfigError that names the field."""
    try:
        return ServeConfig.model_validate(content)
    except ValidationError as fault:
        error = fault.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in error["loc"]) or "the file"
        raise ConfigError(f"{source}: {place}: {error['msg']}") from None
