"""Model folders: reading the base of a training, and writing what came of it under the same contract."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from models import registry
from models.streamvoiceanon import CheckpointError, Config
from models.streamvoiceanon.checkpoint import (
    CONFIG_FILE,
    StateDict,
    is_converted,
    load_networks,
    resolve,
    save_converted,
)
from models.streamvoiceanon.config import build_networks, read_states
from models.streamvoiceanon.training.initial import fresh_networks
from operators.schema import InputError
from pipelines.anonymize import digest_of


@dataclass(frozen=True)
class Base:
    """A checkpoint: its folder, the digest of its files, its sizes, its weights by network (mapped, not read), and what
    each network that was trained here came of."""

    folder: Path
    digest: str
    config: Config
    states: dict[str, StateDict]
    sources: dict[str, str]

    def network(self, name: str) -> nn.Module:
        """Return one of its learned networks, in float32, in memory of its own and without gradients."""
        network = fresh_networks(self.config, 0)[name]
        network.load_state_dict({key: value.float() for key, value in self.states[name].items()})
        return network.eval().requires_grad_(False)


def read_base(source: str) -> Base:
    """Read a checkpoint and check that every network loads. Raises InputError where the contract is another one."""
    try:
        folder = resolve(source)
        states, config = read_states(folder)
        sources = json.loads((folder / CONFIG_FILE).read_text())["sources"] if is_converted(folder) else {}
        load_networks(build_networks(config), states)
    except (CheckpointError, OSError) as fault:
        raise InputError(f"the base model cannot be used: {fault}") from None
    return Base(folder, digest_of(registry.digest(folder)), config, states, sources)


def without_full_context(base: Base) -> Base:
    """Return the checkpoint without what hears whole utterances (`pipelines.fit_full_context`), for other codes."""
    states = {name: state for name, state in base.states.items() if name != "full_context"}
    sources = {name: source for name, source in base.sources.items() if name != "full_context"}
    return replace(base, config=replace(base.config, full_context=None), states=states, sources=sources)


def fresh_base(config: Config, seed: int, speaker_encoders: str | None) -> Base:
    """Return random weights of these sizes. Raises InputError where speaker encoders are needed and not named.

    Style and timbre encoders are not trained here: a shape that has them takes those of another checkpoint.
    """
    states = {name: dict(network.state_dict()) for name, network in fresh_networks(config, seed).items()}
    if config.speaker == "encoders":
        if speaker_encoders is None:
            raise InputError("this shape has speaker encoders, which are not trained here: name speaker_encoders")
        other = read_base(speaker_encoders)
        states |= {name: other.states[name] for name in ("style_encoder", "timbre_encoder")}
    return Base(Path(), "none", config, states, {})


def source_of(state: Mapping[str, Tensor], former: str) -> str:
    """Return the digest of weights and of what they came of, `former`: what `sources` says of a network."""
    from safetensors.torch import save

    return hashlib.sha256(former.encode() + save(dict(state))).hexdigest()


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
