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
from collections.abc import Iterable, Sequence
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


class _Matrix(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "scale", "bias")),
        *((name, ctypes.c_int64) for name in ("vecs", "inputs", "outputs")),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("gain", "shift")]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Matrix) for name in ("qkv", "out", "up", "down")),
        *((name, _Norm) for name in ("before_attention", "before_feed_forward")),
        *((name, ctypes.c_int64) for name in ("heads", "kind")),
        ("epsilon", ctypes.c_float),
    ]


class _Dilated(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "bias")),
        *((name, ctypes.c_int64) for name in ("vecs", "taps", "dilation")),
    ]


class _ConvNeXt(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("depthwise", "depthwise_bias", "gain", "shift")),
        *((name, ctypes.c_void_p) for name in ("wide", "narrow")),
        *((name, ctypes.c_void_p) for name in ("wide_scale", "wide_bias", "narrow_scale", "narrow_bias")),
        *((name, ctypes.c_int64) for name in ("taps", "channels", "hidden", "wide_vecs", "narrow_vecs", "kind")),
        ("epsilon", ctypes.c_float),
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
    return bool(_loaded().tiles_allowed())


def available() -> bool:
    """Whether the kernels can be used on this machine."""
    return _library() is not None


def _loaded() -> ctypes.CDLL:
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
    widest = ctypes.c_int.in_dll(_loaded(), "panel_vecs").value
    vecs = min(widest, 4 if outputs > 2 * PANEL else 2 if outputs > PANEL else 1)
    width = vecs * PANEL
    panels = -(-outputs // width)
    rows = torch.nn.functional.pad(rows.reshape(outputs, -1), (0, 0, 0, panels * width - outputs))
    packed = _shelf.put(rows.to(getattr(torch, kind)).view(panels, width, -1).transpose(1, 2).contiguous())
    function = f"convolve_{kind.replace('float', 'f').replace('int', 'i')}"
    return PackedWeights(packed, scale, vecs, taps, inputs, outputs, function)


def pack_residual(weight: Tensor, kind: WeightType) -> PackedWeights:
    """Pack weights [channels, taps, channels] for `PackedResidualBlocks`: float32, or where `kind` is less exact and
    this processor has tiles, for those.

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


def _scaled(weights: PackedWeights, gain: Tensor) -> PackedWeights:
    """Return weights whose outputs are multiplied by `gain` [outputs]."""
    gain = gain.detach().float()
    return weights._replace(scale=gain.clone() if weights.scale is None else weights.scale * gain)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().clone()


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
        _pointer(weights.scale),
        _pointer(bias),
        x.data_ptr(),
        None,
        y.data_ptr(),
        *(batch, time, time_in, inputs, weights.outputs, weights.taps, dilation, stride),
    )
    function = getattr(_loaded(), weights.function)
    function(weights.panels.data_ptr(), ctypes.byref(job), weights.vecs, torch.get_num_threads())
    return y


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square normalization of [..., width]."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _loaded().rms_norm(x.data_ptr(), gain.data_ptr(), y.data_ptr(), x.numel() // len(gain), len(gain), epsilon)
    return y


def draw_codes(logits: Tensor, uniform: Tensor, greedy: Tensor, top_p: float, temperature: float) -> Tensor:
    """Map logits [B, codes] to codes [B], as `generation.sample` does."""
    logits, uniform, greedy = logits.contiguous(), uniform.contiguous(), greedy.contiguous()
    rows, codes = logits.shape
    drawn = torch.empty(rows, dtype=torch.int64)
    order, values = torch.empty(2 * codes, dtype=torch.int32), torch.empty(3 * (codes + PANEL))
    scratch = (tensor.data_ptr() for tensor in (logits, uniform, greedy, drawn, order, values))
    _loaded().draw_codes(*scratch, rows, codes, top_p, temperature)
    return drawn


Norm = tuple[Tensor, Tensor | None]  # gain and shift, each [width]


class PackedLayer:
    """A transformer layer's weights as the kernels read them."""

    def __init__(
        self,
        weights: tuple[Tensor, Tensor, Tensor, Tensor],
        gains: tuple[Tensor | None, Tensor | None],
        norms: tuple[Norm, Norm],
        heads: int,
        epsilon: float,
        kind: WeightType,
        biases: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None] = (None, None, None, None),
    ) -> None:
        """Pack qkv, output, up and down projection [outputs, inputs], with a bias each where they have one.

        A feed-forward whose up projection is as wide as the down projection's input has a GELU between them; one twice
        as wide holds both halves of a gated unit, with a SiLU. `gains` scale what attention and feed-forward add to
        their input (None: as it is). `norms` come before them: gain and shift of a layer normalization, or the gain
        alone of a root-mean-square one. Raises ValueError for a feed-forward whose width the kernels cannot step
        through, or a bias where there is a gain.
        """
        hidden, wide = weights[3].shape[1], weights[2].shape[0]
        if hidden % PANEL:
            raise ValueError(f"a feed-forward of {hidden} channels: the kernels need a multiple of {PANEL}")
        if wide not in (hidden, 2 * hidden):
            raise ValueError(f"a feed-forward that is {wide} wide before its activation and {hidden} after it")
        if any(gain is not None and bias is not None for gain, bias in zip(gains, biases[1::2], strict=True)):
            raise ValueError("what is added is scaled by a gain or has a bias, not both")
        packed, kind = pack_together([weight.unsqueeze(1) for weight in weights], kind)
        for i, gain in ((1, gains[0]), (3, gains[1])):
            if gain is not None:
                packed[i] = _scaled(packed[i], gain)
        self.weights = tuple(packed)
        self._kept = [_copy(tensor) for tensor in (*biases, *norms[0], *norms[1])]
        self.heads, self.hidden = heads, hidden
        first_gain, first_shift, second_gain, second_shift = map(_pointer, self._kept[4:])
        self._layer = _Layer(
            *(
                _Matrix(m.panels.data_ptr(), _pointer(m.scale), _pointer(bias), m.vecs, m.inputs, m.outputs)
                for m, bias in zip(packed, self._kept[:4], strict=True)
            ),
            _Norm(first_gain, first_shift),
            _Norm(second_gain, second_shift),
            heads,
            KINDS.index(kind),
            epsilon,
        )
        self.address = ctypes.addressof(self._layer)


def run_layers(
    layers: Sequence[PackedLayer],
    x: Tensor,
    rotation: Tensor | None,
    caches: Sequence[tuple[Tensor, Tensor]],
    position: Tensor,
    streams: Tensor | None,
    window: int,
) -> Tensor:
    """Map x [B, n, width] to [B, n, width] through layers of one size.

    `rotation` is complex64 [B, n, 1, head width / 2], or None where nothing is rotated; each layer's keys and values in
    `caches` [streams, heads, slots, head width], float32 or bfloat16, are written in place, for batch row b in row
    `streams[b]` (None: b); `position` [B] counts what each stream has seen before. A query sees the last `window`
    positions.
    """
    x = x.contiguous()
    batch, time, width = x.shape
    slots = caches[0][0].shape[2]
    window = min(window, slots)
    y = torch.empty_like(x)
    room = batch * layers[0].heads * -(-window // PANEL) * PANEL
    scratch = torch.empty(batch * time * (5 * width + 3 * layers[0].hidden) + room)
    _loaded().transformer_layers(
        *(_pointers(layer.address for layer in layers), len(layers), x.data_ptr(), _pointer(rotation)),
        *(_pointers(keys.data_ptr() for keys, _ in caches), _pointers(values.data_ptr() for _, values in caches)),
        *(position.data_ptr(), _pointer(streams), y.data_ptr(), scratch.data_ptr()),
        *(batch, time, slots, window, caches[0][0].dtype == torch.bfloat16, torch.get_num_threads()),
    )
    return y


def _pointers(addresses: Iterable[int]) -> ctypes.Array[ctypes.c_void_p]:
    listed = list(addresses)
    return (ctypes.c_void_p * len(listed))(*listed)


class PackedResidualBlocks:
    """The mean of residual blocks of dilated convolutions, each after a SiLU, in one call."""

    def __init__(self, branches: Sequence[Sequence[tuple[PackedWeights, Tensor, int]]]) -> None:
        """Take weights, bias and dilation of each branch's convolutions, in order; every second closes a residual."""
        flat = [(weights, bias.detach().clone(), dilation) for branch in branches for weights, bias, dilation in branch]
        self._biases = [bias for _, bias, _ in flat]
        self._branches, self._pairs = len(branches), len(branches[0]) // 2
        fields = ((w.panels.data_ptr(), bias.data_ptr(), w.vecs, w.taps, dilation) for w, bias, dilation in flat)
        self._convolutions = (_Dilated * len(flat))(*(_Dilated(*values) for values in fields))
        self._memories = [(weights.taps - 1) * dilation for weights, _, dilation in flat]
        self.weights = tuple(weights for weights, _, _ in flat)

    def __call__(self, x: Tensor, past: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Map x [B, n, channels] and each convolution's memory [B, (taps - 1) x dilation, channels] on."""
        x, past = x.contiguous(), [memory.contiguous() for memory in past]
        batch, time, channels = x.shape
        after = [torch.empty_like(memory) for memory in past]
        y, longest = torch.empty_like(x), max(self._memories)
        scratch = torch.empty((4 * batch * (time + longest) + 2 * PANEL) * channels)
        _loaded().residual_blocks(
            *(self._convolutions, self._branches, self._pairs, x.data_ptr()),
            *(_pointers(memory.data_ptr() for memory in past), _pointers(memory.data_ptr() for memory in after)),
            *(y.data_ptr(), scratch.data_ptr(), batch, time, channels, longest, torch.get_num_threads()),
        )
        return y, after


class PackedConvNeXt:
    """A ConvNeXt block in one call."""

    def __init__(
        self,
        depthwise: tuple[Tensor, Tensor],
        norm: tuple[Tensor, Tensor, float],
        wide: tuple[Tensor, Tensor],
        narrow: tuple[Tensor, Tensor],
        gamma: Tensor,
        kind: WeightType,
    ) -> None:
        """Pack the depthwise convolution [channels, taps], the normalization (gain, shift, epsilon) and the two linear
        maps [outputs, inputs], each with its bias; `gamma` scales what the block adds to its input, `kind` is that of
        the linear maps' weights."""
        kernel, (gain, shift, epsilon) = depthwise[0].detach().T.contiguous(), norm
        (up, down), kind = pack_together([wide[0].unsqueeze(1), narrow[0].unsqueeze(1)], kind)
        down = _scaled(down, gamma)
        self.weights = up, down
        kept = (kernel, depthwise[1], gain, shift, wide[1], narrow[1] * gamma)
        self._kept = [tensor.detach().clone() for tensor in kept]
        *before, wide_bias, narrow_bias = (tensor.data_ptr() for tensor in self._kept)
        self._block = _ConvNeXt(
            *(*before, up.panels.data_ptr(), down.panels.data_ptr()),
            *(_pointer(up.scale), wide_bias, _pointer(down.scale), narrow_bias),
            *(len(kernel), up.inputs, up.outputs, up.vecs, down.vecs, KINDS.index(kind), epsilon),
        )
        self._reference = ctypes.byref(self._block)
        self._taps, self._hidden = len(kernel), up.outputs

    def __call__(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [B, n, channels] and the memory [B, taps - 1, channels] on."""
        x, past = x.contiguous(), past.contiguous()
        batch, time, channels = x.shape
        y, after = torch.empty_like(x), torch.empty_like(past)
        scratch = torch.empty(batch * ((time + self._taps - 1) * channels + time * (channels + self._hidden)))
        _loaded().convnext_block(
            *(self._reference, x.data_ptr(), past.data_ptr(), after.data_ptr(), y.data_ptr(), scratch.data_ptr()),
            *(batch, time, torch.get_num_threads()),
        )
        return y, after
