"""Reading the published checkpoints, and a converted copy of them, into state dicts that the networks here load.

The published files are pickles: they are read with `weights_only=True`, which refuses anything but tensors. Every
tensor that inference needs is checked by name and shape; what only training used is known from the contract and left
where it is. Names that neither know are an error: they mean that the file is not what it says.
"""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.streamvoiceanon.compact import compacted, expanded

CONTRACT = Path(__file__).with_name("contract.json")
WEIGHTS_FILE, CONFIG_FILE = "streamvoiceanon.safetensors", "streamvoiceanon.json"
FORMAT = "streamvoiceanon-1"
EXACT = "codebook.weight"  # what no compact file rounds: which code is nearest hangs on it
StateDict = dict[str, Tensor]
_MAGNITUDE, _DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message lists everything that is wrong with it."""


def contract() -> dict[str, dict[str, Any]]:
    """For each of the five networks: its checkpoint's file name, and name, shape and dtype of every tensor in it."""
    return json.loads(CONTRACT.read_text())


def resolve(source: str | Path) -> Path:
    """Return the folder of a checkpoint: a local one, or `organization/name[@revision]` from the Hugging Face hub."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(f"{source} is a file: name the folder that holds it")
    name, _, revision = str(source).removeprefix("hf://").partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"no folder {source}, nor is it the name of a Hugging Face repository")
    from huggingface_hub import snapshot_download

    files = [*(entry["file"] for entry in contract().values()), WEIGHTS_FILE, CONFIG_FILE]
    patterns = [pattern for file in files for pattern in (file, f"*/{file}")]
    return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))


def read_published(folder: Path) -> dict[str, StateDict]:
    """Read the five published files, wherever below `folder` they lie, into plain state dicts.

    Raises CheckpointError that names every file that is missing or cannot be read.
    """
    states, problems = {}, []
    for network, entry in contract().items():
        paths = sorted(folder.rglob(entry["file"]))
        if not paths:
            problems.append(f"{entry['file']} ({network}) is missing")
            continue
        try:
            states[network] = plain(torch.load(paths[0], map_location="cpu", weights_only=True, mmap=_is_zip(paths[0])))
        except pickle.UnpicklingError:
            problems.append(f"{entry['file']} ({network}) holds more than tensors, or is no checkpoint, and is refused")
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            problems.append(f"{entry['file']} ({network}) cannot be read, it may be truncated: {_first_line(error)}")
        except CheckpointError as error:
            problems.append(f"{entry['file']} ({network}): {error}")
    if problems:
        raise CheckpointError(f"the checkpoint in {folder} cannot be loaded:\n- " + "\n- ".join(problems))
    return states


def plain(loaded: object) -> StateDict:
    """Unwrap what a published file holds: `net`, `module.` and the style encoder's older names."""
    while isinstance(loaded, Mapping) and len(inner := [v for k, v in loaded.items() if k == "net"]) == 1:
        loaded = inner[0]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError("it is not a table of tensors")
    state = {}
    for key, value in loaded.items():
        key = str(key).removeprefix("module.")
        for old, new in (("xvector.stats.", "stats."), ("xvector.dense.", "dense.")):
            if key.startswith(old):
                key = new + key.removeprefix(old)
        state[key] = value
    return state


def fold_weight_norm(state: Mapping[str, Tensor]) -> StateDict:
    """Replace magnitude [n, 1, 1] and direction [n, …, …] of weight-normalized convolutions by their weight.

    Raises CheckpointError where they do not belong together.
    """
    folded = {key: value for key, value in state.items() if not key.endswith((_MAGNITUDE, _DIRECTION))}
    for key, magnitude in state.items():
        if key.endswith(_MAGNITUDE) and (direction := state.get(key.replace(_MAGNITUDE, _DIRECTION))) is not None:
            if direction.dim() != 3 or magnitude.shape != (len(direction), 1, 1):
                shapes = f"{list(magnitude.shape)} for a direction of {list(direction.shape)}"
                raise CheckpointError(f"{key} has shape {shapes}")
            weight = magnitude * direction / direction.norm(dim=(1, 2), keepdim=True)
            folded[key.replace(_MAGNITUDE, "weight")] = weight
    return folded


def load_networks(networks: Mapping[str, nn.Module], states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load each network's state dict into it.

    Raises CheckpointError with one message that lists every tensor that is missing, has another shape, or is unknown.
    """
    problems = [f"{name}: the whole network is missing" for name in networks if name not in states]
    problems += [f"{name}: no such network" for name in states if name not in networks]
    ready = {}
    known = contract()
    for name, network in networks.items():
        if name not in states:
            continue
        try:
            state = fold_weight_norm(plain(states[name]))
        except CheckpointError as fault:
            problems.append(f"{name}: {fault}")
            continue
        needed = network.state_dict()
        for key, value in needed.items():
            if key not in state and key.endswith("num_batches_tracked"):
                state[key] = torch.zeros((), dtype=torch.int64)
            elif key not in state:
                problems.append(f"{name}: {key} is missing")
            elif state[key].shape != value.shape:
                problems.append(f"{name}: {key} has shape {list(state[key].shape)}, not {list(value.shape)}")
            elif state[key].is_floating_point() != value.is_floating_point():
                problems.append(f"{name}: {key} holds {state[key].dtype}, not {value.dtype}")
        tensors = known.get(name, {}).get("tensors", {})
        problems += [f"{name}: {key} is unknown" for key in state if key not in needed and key not in tensors]
        ready[name] = {key: state[key].to(value.dtype) for key, value in needed.items() if key in state}
    if problems:
        raise CheckpointError(f"{len(problems)} tensors do not fit the networks:\n- " + "\n- ".join(problems))
    for name, network in networks.items():
        network.load_state_dict(ready[name], assign=True)
        network.eval().requires_grad_(False)


def save_converted(
    folder: Path, networks: Mapping[str, nn.Module], config: object, sources: Mapping[str, str], compact: bool = False
) -> None:
    """Write one safetensors file with what inference needs, and its JSON configuration.

    `config` is a dataclass; `sources` are the digests of the files that it was made of. `compact` writes a byte a
    weight (`compact.compacted`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()
    }
    if compact:
        weights = {
            f"{name}.{key}"
            for name, network in networks.items()
            for key, _ in network.named_parameters()
            if not key.endswith(EXACT)
        }
        tensors = compacted(tensors, weights)
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / WEIGHTS_FILE)
    document = {
        "format": FORMAT,
        "config": asdict(config),  # type: ignore[call-overload]
        "sources": dict(sources),
        "sha256": digest(folder / WEIGHTS_FILE),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(document, indent=1) + "\n")


def read_converted(folder: Path) -> tuple[dict[str, StateDict], dict[str, Any]]:
    """Read a converted checkpoint: state dicts by network, and the configuration as plain values.

    The weights file is mapped, not read, unless it is a compact one.
    """
    document = read_document(folder)
    try:
        tensors = expanded(load_file(folder / WEIGHTS_FILE))
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint in {folder} cannot be read: {_first_line(error)}") from None
    states: dict[str, StateDict] = {}
    for key, value in tensors.items():
        network, _, name = key.partition(".")
        states.setdefault(network, {})[name] = value
    return states, document["config"]


def read_document(folder: Path) -> dict[str, Any]:
    """Read what a converted checkpoint says of itself: its `config`, its `sources`. Raises CheckpointError."""
    try:
        document: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint in {folder} cannot be read: {_first_line(error)}") from None
    found = document.get("format") if isinstance(document, dict) else document
    if found != FORMAT:
        raise CheckpointError(f"{folder / CONFIG_FILE} is of format {found!r}, not {FORMAT!r}")
    return document


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a converted checkpoint."""
    return (folder / CONFIG_FILE).exists()


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each published file below `folder`."""
    return {file: digest(sorted(folder.rglob(file))[0]) for file in (entry["file"] for entry in contract().values())}


def _is_zip(path: Path) -> bool:
    return zipfile.is_zipfile(path)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
