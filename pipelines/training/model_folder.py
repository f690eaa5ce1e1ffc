"""Model folders: reading the base of a training, and writing what came of it under the same contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from models import registry
from models.streamvoiceanon import CheckpointError, Config
from models.streamvoiceanon.checkpoint import (
    StateDict,
    is_converted,
    load_networks,
    read_converted,
    read_published,
    resolve,
    save_converted,
)
from models.streamvoiceanon.model import build_networks, config_from_values
from operators.schema import InputError
from pipelines.anonymize import digest_of


@dataclass(frozen=True)
class Base:
    """A checkpoint: its folder, the digest of its files, its sizes, and its weights by network (mapped, not read)."""

    folder: Path
    digest: str
    config: Config
    states: dict[str, StateDict]


def read_base(source: str) -> Base:
    """Read a checkpoint and check that every network loads. Raises InputError where the contract is another one."""
    try:
        folder = resolve(source)
        if is_converted(folder):
            states, values = read_converted(folder)
            config = config_from_values(values)
        else:
            states, config = read_published(folder), Config()
        load_networks(build_networks(config), states)
    except (CheckpointError, OSError) as fault:
        raise InputError(f"the base model cannot be used: {fault}") from None
    return Base(folder, digest_of(registry.digest(folder)), config, states)


def write_model(folder: Path, base: Base, trained: Mapping[str, Mapping[str, Tensor]], sources: dict[str, str]) -> None:
    """Write a checkpoint folder: the base with some networks' weights replaced, of the same names and shapes.

    Raises InputError where the trained weights are of another contract.
    """
    networks = build_networks(base.config)
    try:
        load_networks(networks, {**base.states, **{name: dict(state) for name, state in trained.items()}})
    except CheckpointError as fault:
        raise InputError(f"the trained weights do not fit the base: {fault}") from None
    save_converted(folder, networks, base.config, sources)


def parameters(networks: Mapping[str, nn.Module]) -> int:
    """Return how many weights networks have together."""
    return sum(value.numel() for network in networks.values() for value in network.parameters())
