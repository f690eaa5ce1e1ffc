"""The compiled half of `kernels.c`: building it once, packing weights for it, and calling it on tensors.

Layers call it on a CPU once `pack` has been called on them, and plain PyTorch before that, on a GPU and in training.
It needs a C compiler (`cc`) the first time; `available()` says whether there is one. What it computes for a row
depends on that row alone, to the last bit, which PyTorch's products do not promise.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

WeightType = Literal["float32", "int8"]
SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
LANES = 16


class _Job(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("scale", "bias", "x", "residual", "y")),
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "time", "time_in", "inputs", "outputs", "taps", "dilation", "stride")
        ),
    ]


class _Matrix(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "scale")),
        *((name, ctypes.c_int64) for name in ("vecs", "inputs", "outputs")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Matrix) for name in ("qkv", "out", "gates", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "feed_forward_norm")),
        *((name, ctypes.c_int64) for name in ("heads", "kind")),
        ("epsilon", ctypes.c_float),
    ]


_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "convolve_f32": [_POINTER, _POINTER, _LONG, _INT],
    "convolve_i8": [_POINTER, _POINTER, _LONG, _INT],
    "convolve_depthwise": [*[_POINTER] * 4, *[_LONG] * 4, _INT],
    "rms_norm": [*[_POINTER] * 3, _LONG, _LONG, ctypes.c_float],
    "transformer_layer": [*[_POINTER] * 9, *[_LONG] * 4, _INT],
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Build the kernels where this processor's are not built yet, and load them; None without a compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else platform.processor()
    features = "".join(line for line in cpu.splitlines() if line.startswith(("flags", "model name", "Features")))
    name = hashlib.sha256("\0".join([SOURCE.read_text(), *FLAGS, compiler, features]).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voxveil" / "kernels"
    target = folder / f"{name}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / target.name
            result = subprocess.run(
                [compiler, *FLAGS, "-shared", "-fPIC", "-o", built, SOURCE], capture_output=True, text=True, check=False
            )
            if result.returncode:
                raise RuntimeError(f"{compiler} cannot build {SOURCE.name}:\n{result.stderr}")
            built.rename(target)  # one rename: two processes that build at once both end with a whole file
    if target.stat().st_uid != os.getuid():
        raise PermissionError(f"{target} belongs to another user and is not loaded")
    library = ctypes.CDLL(str(target))
    for function, arguments in _SIGNATURES.items():
        getattr(library, function).argtypes = arguments
        getattr(library, function).restype = None
    return library


def available() -> bool:
    """Whether the kernels can be used on this machine."""
    return _library() is not None


def _loaded() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("the CPU kernels need a C compiler (cc), and there is none")
    return library


class PackedWeights(NamedTuple):
    """Weights of a convolution (or a matrix: one tap) as the kernels read them."""

    panels: Tensor  # [panels, taps x inputs, 16 x vecs]
    scale: Tensor | None  # float32 [outputs], for int8
    vecs: int
    taps: int
    inputs: int
    outputs: int
    function: str


def pack_weights(weight: Tensor, kind: WeightType) -> PackedWeights:
    """Pack weights [outputs, taps, inputs]; int8 rounds to 127 steps of each output's largest magnitude."""
    outputs, taps, inputs = weight.shape
    weight = weight.detach().float()
    scale = None
    if kind == "int8":
        scale = (weight.abs().amax(dim=(1, 2)) / 127).clamp(min=1e-12)
        weight = (weight / scale.view(-1, 1, 1)).round()
    vecs = 4 if outputs > 2 * LANES else 2 if outputs > LANES else 1
    width = vecs * LANES
    panels = -(-outputs // width)
    rows = torch.nn.functional.pad(weight.reshape(outputs, -1), (0, 0, 0, panels * width - outputs))
    dtype, suffix = (torch.int8, "i8") if kind == "int8" else (torch.float32, "f32")
    packed = rows.to(dtype).view(panels, width, -1).transpose(1, 2).contiguous()
    return PackedWeights(packed, scale, vecs, taps, inputs, outputs, f"convolve_{suffix}")


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def convolve(
    x: Tensor,
    weights: PackedWeights,
    bias: Tensor | None,
    dilation: int = 1,
    stride: int = 1,
    residual: Tensor | None = None,
) -> Tensor:
    """Convolve x [B, time, inputs] without padding to [B, n, outputs]; adds `residual` of that shape."""
    x = x.contiguous()
    batch, time_in, inputs = x.shape
    if inputs != weights.inputs:
        raise ValueError(f"{inputs} channels for weights of {weights.inputs}")
    time = (time_in - (weights.taps - 1) * dilation - 1) // stride + 1
    y = torch.empty(batch, time, weights.outputs)
    if residual is not None:
        residual = residual.expand_as(y).contiguous()
    job = _Job(
        _pointer(weights.scale),
        _pointer(bias),
        x.data_ptr(),
        _pointer(residual),
        y.data_ptr(),
        *(batch, time, time_in, inputs, weights.outputs, weights.taps, dilation, stride),
    )
    function = getattr(_loaded(), weights.function)
    function(weights.panels.data_ptr(), ctypes.byref(job), weights.vecs, torch.get_num_threads())
    return y


def convolve_depthwise(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel of x [B, n + taps - 1, channels] with weights [taps, channels] to [B, n, channels]."""
    x = x.contiguous()
    batch, time_in, channels = x.shape
    y = torch.empty(batch, time_in - len(weights) + 1, channels)
    _loaded().convolve_depthwise(
        *(weights.data_ptr(), bias.data_ptr(), x.data_ptr(), y.data_ptr()),
        *(batch, y.shape[1], channels, len(weights), torch.get_num_threads()),
    )
    return y


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square normalization of [..., width]."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _loaded().rms_norm(x.data_ptr(), gain.data_ptr(), y.data_ptr(), x.numel() // len(gain), len(gain), epsilon)
    return y


class PackedLayer:
    """A transformer layer's weights as the kernels read them, and the one call that runs it."""

    def __init__(
        self,
        weights: tuple[Tensor, Tensor, Tensor, Tensor],
        gains: tuple[Tensor | None, Tensor | None],
        norms: tuple[Tensor, Tensor],
        heads: int,
        epsilon: float,
        kind: WeightType,
    ) -> None:
        """Pack qkv, output, both gates and down projection [outputs, inputs].

        `gains` scale what attention and feed-forward add to their input (None: as it is); `norms` are the gains of the
        normalizations before them.
        """
        packed = [pack_weights(weight.unsqueeze(1), kind) for weight in weights]
        for i, gain in ((1, gains[0]), (3, gains[1])):
            if gain is not None:
                scale = packed[i].scale
                packed[i] = packed[i]._replace(scale=gain.detach().clone() if scale is None else scale * gain)
        self.matrices = tuple(packed)
        self.norms = tuple(norm.detach().clone() for norm in norms)
        self._heads, self._hidden = heads, packed[3].inputs
        self._layer = _Layer(
            *(_Matrix(m.panels.data_ptr(), _pointer(m.scale), m.vecs, m.inputs, m.outputs) for m in packed),
            *(norm.data_ptr() for norm in self.norms),
            heads,
            ("float32", "int8").index(kind),
            epsilon,
        )
        self._reference = ctypes.byref(self._layer)

    def __call__(
        self,
        x: Tensor,
        rotation: Tensor,
        keys: Tensor,
        values: Tensor,
        position: Tensor,
        streams: Tensor | None,
        window: int,
    ) -> Tensor:
        """Map x [B, n, width] to [B, n, width].

        `rotation` is complex64 [B, n, 1, head width / 2]; `keys` and `values` [streams, heads, slots, head width] are
        written in place, for batch row b in row `streams[b]` (None: b); `position` [B] counts what each stream has seen
        before. A query sees the last `window` positions.
        """
        x = x.contiguous()
        batch, time, width = x.shape
        slots = keys.shape[2]
        window = min(window, slots)
        y = torch.empty_like(x)
        room = batch * self._heads * -(-window // LANES) * LANES
        scratch = torch.empty(batch * time * (5 * width + 3 * self._hidden) + room)
        _loaded().transformer_layer(
            self._reference,
            *(x.data_ptr(), rotation.data_ptr(), keys.data_ptr(), values.data_ptr()),
            *(position.data_ptr(), _pointer(streams), y.data_ptr(), scratch.data_ptr()),
            *(batch, time, slots, window, torch.get_num_threads()),
        )
        return y
