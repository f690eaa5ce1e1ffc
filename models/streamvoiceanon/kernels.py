"""The compiled half of `kernels.c`: building it once, packing weights for it, and calling it on tensors.

Layers call it on a CPU once `pack` has been called on them, and plain PyTorch before that, on a GPU and in training.
It needs a C compiler (`cc`) the first time; `available()` says whether there is one. What it computes for a row
depends on that row alone, to the last bit, which PyTorch's products do not promise.
"""

import ctypes
import functools
import hashlib
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

WeightType = Literal["float32", "int8", "int16"]
KINDS: tuple[WeightType, ...] = ("float32", "int8", "int16")  # by the number that kernels.c knows them by
LARGE_PAGE, LINE, SHELF = 2 << 20, 64, 64 << 20  # bytes
STEPS = {"int8": 127, "int16": 32_767}  # of an output's largest magnitude
WHOLE = 1e-3  # of a step: what float32 makes of 127 of them is off by less
SOURCE = Path(__file__).with_name("kernels.c")
INCLUDED = Path(__file__).with_name("tiles.h")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
PANEL = 16  # outputs: a panel of packed weights is one, two or four times as wide, see kernels.c


class _Job(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("scale", "bias", "x", "residual", "y")),
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "time", "time_in", "inputs", "outputs", "taps", "dilation", "stride")
        ),
    ]


_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "convolve_f32": [_POINTER, _POINTER, _LONG, _INT],
    "convolve_i8": [_POINTER, _POINTER, _LONG, _INT],
    "convolve_i16": [_POINTER, _POINTER, _LONG, _INT],
    "draw_codes": [*[_POINTER] * 6, _LONG, _LONG, ctypes.c_float, ctypes.c_float],
    "rms_norm": [*[_POINTER] * 3, _LONG, _LONG, ctypes.c_float],
    "residual_blocks": [_POINTER, _LONG, _LONG, *[_POINTER] * 5, *[_LONG] * 4, _INT],
    "convnext_block": [*[_POINTER] * 6, _LONG, _LONG, _INT],
    "transformer_layers": [_POINTER, _LONG, *[_POINTER] * 8, *[_LONG] * 4, _INT, _INT],
    "write_frame": [
        *(_POINTER, _LONG, *[_POINTER] * 6, ctypes.c_float, _POINTER, _LONG),
        *(*[_POINTER] * 7, _LONG, _LONG, ctypes.c_float, ctypes.c_float, _INT),
    ],
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Build the kernels where this processor's are not built yet, and load them; None without a compiler that can."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else platform.processor()
    features = "".join(line for line in cpu.splitlines() if line.startswith(("flags", "model name", "Features")))
    name = hashlib.sha256(
        "\0".join([SOURCE.read_text(), INCLUDED.read_text(), *FLAGS, str(Path(compiler).resolve()), features]).encode()
    ).hexdigest()[:20]
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
                complaint = result.stderr.strip().splitlines()[-1:]
                warnings.warn(
                    f"{compiler} cannot build {SOURCE.name}, so PyTorch alone works: {complaint}", stacklevel=2
                )
                return None
            built.rename(target)  # one rename: two processes that build at once both end with a whole file
    if target.stat().st_uid != os.getuid():
        raise PermissionError(f"{target} belongs to another user and is not loaded")
    library = ctypes.CDLL(str(target))
    for function, arguments in _SIGNATURES.items():
        getattr(library, function).argtypes = arguments
        getattr(library, function).restype = None
    return library


def has_tiles() -> bool:
    """Whether this processor multiplies in tiles (`tiles.h`), and the system lets this process do so."""
    return bool(loaded().tiles_allowed())


def available() -> bool:
    """Whether the kernels can be used on this machine."""
    return _library() is not None


def loaded() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("the CPU kernels need a C compiler (cc), and there is none")
    return library


def in_large_pages(fresh: Tensor) -> Tensor:
    """Ask the system to keep a tensor that nobody has written to yet in large pages, and return it.

    Of what is read once a frame there are then 500 times fewer pages to find. Where the system has none of them nothing
    happens.
    """
    if hasattr(mmap, "MADV_HUGEPAGE") and fresh.device.type == "cpu":
        start = -(-fresh.data_ptr() // LARGE_PAGE) * LARGE_PAGE
        length = (fresh.data_ptr() + fresh.nbytes - start) // LARGE_PAGE * LARGE_PAGE
        if length > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return fresh


class _Shelf:
    """Memory in large pages, in which weights are laid side by side: one matrix alone is smaller than a page."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)
        self._one_at_a_time = threading.Lock()

    def put(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor on the shelf, which stays as long as any of its tensors does."""
        room = -(-tensor.nbytes // LINE) * LINE
        with self._one_at_a_time, torch.inference_mode(False), torch.no_grad():
            if len(self._free) < room:
                self._free = in_large_pages(torch.empty(max(room, SHELF), dtype=torch.uint8))
            taken, self._free = self._free[: tensor.nbytes], self._free[room:]
            return taken.view(tensor.dtype).view(tensor.shape).copy_(tensor)


_shelf = _Shelf()


class PackedWeights(NamedTuple):
    """Weights of a convolution (or a matrix: one tap) as the kernels read them."""

    panels: Tensor  # [panels, taps x inputs, 16 x vecs]; for tiles as `pack_residual` says
    scale: Tensor | None  # float32 [outputs], of integers
    vecs: int  # 0: for tiles
    taps: int
    inputs: int
    outputs: int
    function: str


def pack_weights(weight: Tensor, kind: WeightType) -> PackedWeights:
    """Pack weights [outputs, taps, inputs]; integers are 127 or 32,767 steps of each output's largest magnitude.

    Weights that are whole steps of int8, as those of a compact checkpoint are (`compact`), are no less exact in it, and
    half as much is read: it takes the place of int16 then.
    """
    (packed,), _ = pack_together([weight], kind)
    return packed


def pack_together(weights: Sequence[Tensor], kind: WeightType) -> tuple[list[PackedWeights], WeightType]:
    """Pack weights that one kernel reads, all as one kind, as `pack_weights` does; return them and the kind."""
    if kind == "float32":
        return [_packed(weight.detach().float(), None, kind) for weight in weights], kind
    if kind == "int16":
        counted = [_count_steps(weight, "int8") for weight in weights]
        if all(off < WHOLE for _, _, off in counted):
            return [_packed(steps, scale, "int8") for steps, scale, _ in counted], "int8"
    counted = [_count_steps(weight, kind) for weight in weights]
    return [_packed(steps, scale, kind) for steps, scale, _ in counted], kind


def _count_steps(weight: Tensor, kind: WeightType) -> tuple[Tensor, Tensor, float]:
    """Return weights [outputs, taps, inputs] in whole steps, each output's step, and by how much of one most is off."""
    weight = weight.detach().float()
    scale = (weight.abs().amax(dim=(1, 2)) / STEPS[kind]).clamp(min=1e-12)
    steps = weight / scale.view(-1, 1, 1)
    whole = steps.round()
    return whole, scale, float(steps.sub_(whole).abs_().max())


def _packed(rows: Tensor, scale: Tensor | None, kind: WeightType) -> PackedWeights:
    """Lay out what is to be read, [outputs, taps, inputs], in panels."""
    outputs, taps, inputs = rows.shape
    widest = ctypes.c_int.in_dll(loaded(), "panel_vecs").value
    vecs = min(widest, 4 if outputs > 2 * PANEL else 2 if outputs > PANEL else 1)
    width = vecs * PANEL
    panels = -(-outputs // width)
    rows = torch.nn.functional.pad(rows.reshape(outputs, -1), (0, 0, 0, panels * width - outputs))
    packed = _shelf.put(rows.to(getattr(torch, kind)).view(panels, width, -1).transpose(1, 2).contiguous())
    function = f"convolve_{kind.replace('float', 'f').replace('int', 'i')}"
    return PackedWeights(packed, scale, vecs, taps, inputs, outputs, function)


def pack_residual(weight: Tensor, kind: WeightType) -> PackedWeights:
    """Pack weights [channels, taps, channels] for `fused.PackedResidualBlocks`: float32, or where `kind` is less exact
    and this processor has tiles, for those.

    Each weight is then two bfloat16 numbers, whose sum has the 16 leading bits of it: [blocks of 16 outputs, taps,
    blocks of inputs, high and low, pairs of inputs, 16 outputs, 2].
    """
    outputs, taps, inputs = weight.shape
    if kind == "float32" or not has_tiles() or inputs != outputs or (inputs != PANEL and inputs % (2 * PANEL)):
        return pack_weights(weight, "float32")
    weight = weight.detach().float()
    high = weight.bfloat16()
    halves = torch.stack([high, (weight - high.float()).bfloat16()])
    parted = halves.unflatten(3, (-1, min(inputs, 2 * PANEL) // 2, 2)).unflatten(1, (-1, PANEL))
    panels = _shelf.put(parted.permute(1, 3, 4, 0, 5, 2, 6))
    return PackedWeights(panels, None, 0, taps, inputs, outputs, "residual_blocks")


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def convolve(
    x: Tensor,
    weights: PackedWeights,
    bias: Tensor | None,
    dilation: int = 1,
    stride: int = 1,
) -> Tensor:
    """Convolve x [B, time, inputs] without padding to [B, n, outputs]."""
    x = x.contiguous()
    batch, time_in, inputs = x.shape
    if inputs != weights.inputs:
        raise ValueError(f"{inputs} channels for weights of {weights.inputs}")
    time = (time_in - (weights.taps - 1) * dilation - 1) // stride + 1
    y = torch.empty(batch, time, weights.outputs)
    job = _Job(
        pointer(weights.scale),
        pointer(bias),
        x.data_ptr(),
        None,
        y.data_ptr(),
        *(batch, time, time_in, inputs, weights.outputs, weights.taps, dilation, stride),
    )
    function = getattr(loaded(), weights.function)
    function(weights.panels.data_ptr(), ctypes.byref(job), weights.vecs, torch.get_num_threads())
    return y


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square normalization of [..., width]."""
    x = x.contiguous()
    y = torch.empty_like(x)
    loaded().rms_norm(x.data_ptr(), gain.data_ptr(), y.data_ptr(), x.numel() // len(gain), len(gain), epsilon)
    return y


def draw_codes(logits: Tensor, uniform: Tensor, greedy: Tensor, top_p: float, temperature: float) -> Tensor:
    """Map logits [B, codes] to codes [B], as `generation.sample` does."""
    logits, uniform, greedy = logits.contiguous(), uniform.contiguous(), greedy.contiguous()
    rows, codes = logits.shape
    drawn = torch.empty(rows, dtype=torch.int64)
    order, values = torch.empty(2 * codes, dtype=torch.int32), torch.empty(3 * (codes + PANEL))
    scratch = (tensor.data_ptr() for tensor in (logits, uniform, greedy, drawn, order, values))
    loaded().draw_codes(*scratch, rows, codes, top_p, temperature)
    return drawn
