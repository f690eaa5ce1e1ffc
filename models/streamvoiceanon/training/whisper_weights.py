"""The weights of Whisper's encoder, read from the file that CTranslate2 reads, to begin a content encoder with."""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.streamvoiceanon.whisper_trunk import WhisperTrunk

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}  # CTranslate2's numbers
VERSION = 6  # of the file's layout


def load_whisper(trunk: WhisperTrunk, folder: Path) -> None:
    """Load the first layers of a Whisper model into a trunk of the same width.

    Raises ValueError where the model is of another width, quantized, or in a layout that is not known here.
    """
    found = read_ctranslate2(folder / "model.bin")
    state: dict[str, Tensor] = {}
    for name, wanted in trunk.state_dict().items():
        value = found.get(ctranslate2_name(name))
        if value is None or not np.issubdtype(value.dtype, np.floating) or value.shape != tuple(wanted.shape):
            raise ValueError(f"{folder} does not fit: {name} should be {list(wanted.shape)} in floating point")
        state[name] = torch.from_numpy(value.astype(np.float32))
    trunk.load_state_dict(state)


def ctranslate2_name(name: str) -> str:
    """Map the name of a trunk's parameter to CTranslate2's."""
    place, _, kind = name.rpartition(".")
    if place.startswith("conv"):
        return f"encoder/{place.split('.')[0]}/{kind}"
    if place == "norm":
        return f"encoder/layer_norm/{_norm(kind)}"
    _, layer, part = place.split(".", 2)
    inside = {
        "attention_norm": f"self_attention/layer_norm/{_norm(kind)}",
        "attention.wqkv": f"self_attention/linear_0/{kind}",
        "attention.wo": f"self_attention/linear_1/{kind}",
        "ffn_norm": f"ffn/layer_norm/{_norm(kind)}",
        "w1": f"ffn/linear_0/{kind}",
        "w2": f"ffn/linear_1/{kind}",
    }[part]
    return f"encoder/layer_{layer}/{inside}"


def _norm(kind: str) -> str:
    return {"weight": "gamma", "bias": "beta"}[kind]


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a CTranslate2 model by name. Raises ValueError where the layout is another one."""
    file = io.BytesIO(path.read_bytes())

    def take(size: int) -> bytes:
        if len(taken := file.read(size)) < size:
            raise ValueError(f"{path} ends too early")
        return taken

    def number(form: str) -> int:
        return struct.unpack(f"<{form}", take(struct.calcsize(f"<{form}")))[0]

    def text() -> str:
        return take(number("H"))[:-1].decode()  # a zero ends it

    arrays = {}
    if (version := number("I")) != VERSION:
        raise ValueError(f"{path} is of layout {version}, not {VERSION}")
    text(), number("I")  # the model's kind and its revision
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        if (kind := TYPES.get(number("B"))) is None:
            raise ValueError(f"{path}: {name} is of a type that is not known here")
        arrays[name] = np.frombuffer(take(number("I")), kind).reshape(shape)
    return arrays
