"""Where a result comes from: the data, the models, the settings and the software, without any secret among them."""

import re
from datetime import UTC
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator


def without_secrets(uri: str) -> str:
    """Return the URI without user, password, query and fragment, where access keys and signatures travel."""
    parts = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)([^?#]*).*", uri, re.DOTALL)
    return uri if parts is None else parts[1] + parts[2].rpartition("@")[2] + parts[3]


SafeUri = Annotated[str, AfterValidator(without_secrets)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Counts(_Record):
    """Rows, which always add up: input = released + quarantined. `reasons` counts the quarantined by why."""

    input: int = Field(ge=0)
    released: int = Field(ge=0)
    quarantined: int = Field(ge=0)
    reasons: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if self.input != self.released + self.quarantined:
            raise ValueError(
                f"{self.input} input rows are not {self.released} released + {self.quarantined} quarantined"
            )
        if sum(self.reasons.values()) != self.quarantined:
            raise ValueError(f"{self.quarantined} quarantined rows have {sum(self.reasons.values())} reasons")
        return self


class AnonymizerUsed(_Record):
    """The anonymizer, its settings and the digest of both (weights included where there are any)."""

    name: str
    config: dict[str, JsonValue] = Field(default_factory=dict)
    digest: str


class ModelUsed(_Record):
    """A model that judged: what for (`speaker attacker`), where it came from, and the digest of its weights."""

    role: str
    uri: SafeUri
    digest: str


class Lineage(_Record):
    """Everything that is needed to say what this result is about and to make it again.

    `fingerprint` is the digest of the input, `output_digest` that of the released rows. `key_policy` says where the key
    of the pseudonyms and voices came from; the key itself is never recorded.
    """

    job: Literal["release", "audit"]
    job_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    created: AwareDatetime
    dataset: str = Field(min_length=1)
    index_uri: SafeUri
    fingerprint: str
    output_digest: str | None = None
    counts: Counts
    speakers: int = Field(ge=0)
    hours: float = Field(ge=0, allow_inf_nan=False)
    profile: str
    anonymizer: AnonymizerUsed
    auditors: tuple[ModelUsed, ...] = ()
    key_policy: Literal["ephemeral", "environment"]
    voice_policy: Literal["utterance", "speaker"]
    code_version: str
    software: dict[str, str] = Field(default_factory=dict)

    @property
    def day(self) -> str:
        return self.created.astimezone(UTC).strftime("%Y-%m-%d")
