"""What is known of a trained attacker: a card beside its weights, and a version of a registered model in MLflow.

The card says against which anonymizer it was trained, on whom, and how the training went, so that an audit can refuse
an attacker of another system, or one that was trained on the people it is to attack. Names of speakers are kept as
digests, which is enough to find them again and not to read them.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from governance.lineage import AnonymizerUsed
from governance.training_record import TrainingRecord

CARD = "attacker.json"


class AttackerCard(BaseModel):
    """Where a trained attacker comes from. `losses` is its history, thinned to at most `MOST_LOSSES` means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["voxveil attacker network 1"] = "voxveil attacker network 1"
    digest: str
    anonymizer: AnonymizerUsed
    corpus_fingerprint: str
    speakers: int = Field(ge=1)
    utterances: int = Field(ge=1)
    speaker_marks: tuple[str, ...]
    settings: dict[str, JsonValue]
    initial: str | None
    losses: tuple[float, ...]


MOST_LOSSES = 1000


def mark_speaker(name: str) -> str:
    """Return the digest by which a card knows a speaker."""
    return hashlib.sha256(f"speaker\0{name}".encode()).hexdigest()[:32]


def count_known(card: AttackerCard, speakers: Iterable[str]) -> int:
    """Return how many of these speakers the attacker was trained on."""
    return len(set(card.speaker_marks) & {mark_speaker(name) for name in speakers})


def write_card(card: AttackerCard, folder: Path) -> None:
    """Put a card beside an attacker's weights."""
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n")


def read_card(folder: Path) -> AttackerCard:
    """Return the card of an attacker. Raises ValueError where the folder holds none."""
    try:
        return AttackerCard.model_validate_json((folder / CARD).read_text())
    except OSError:
        raise ValueError(
            f"{folder} holds no {CARD}: it was not made by `voxveil attacker train`, so nobody can tell whom it knows"
        ) from None
    except ValidationError as fault:
        raise ValueError(f"{folder / CARD} cannot be read: {fault.errors()[0]['msg']}") from None


def register_attacker(record: TrainingRecord, card: AttackerCard, folder: Path) -> str:
    """Keep an attacker as the newest version of a registered model and return its URI. Raises TrackingUnavailable."""
    name = f"attacker-{card.anonymizer.name}"
    lineage = {
        "anonymizer": card.anonymizer.name,
        "anonymizer_digest": card.anonymizer.digest,
        "configuration_digest": card.digest,
        "corpus_fingerprint": card.corpus_fingerprint,
        "speakers": str(card.speakers),
        "initial": card.initial or "from scratch",
    }
    return f"models:/{name}/{record.register(name, folder, lineage, to_audit=False)}"
