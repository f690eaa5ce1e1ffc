"""Whole blocks of a network in one call of the compiled kernels: transformer layers, a frame's codes, convolutions."""

import ctypes
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.streamvoiceanon.kernels import (
    KINDS,
    PANEL,
    PackedWeights,
    WeightType,
    loaded,
    pack_together,
    pointer,
)

_KIND_OF = {getattr(torch, kind): number for number, kind in enumerate(KINDS)}


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


def _scaled(weights: PackedWeights, gain: Tensor) -> PackedWeights:
    """Return weights whose outputs are multiplied by `gain` [outputs]."""
    gain = gain.detach().float()
    return weights._replace(scale=gain.clone() if weights.scale is None else weights.scale * gain)


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().clone()


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
        first_gain, first_shift, second_gain, second_shift = map(pointer, self._kept[4:])
        self._layer = _Layer(
            *(
                _Matrix(m.panels.data_ptr(), pointer(m.scale), pointer(bias), m.vecs, m.inputs, m.outputs)
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
    loaded().transformer_layers(
        *(_pointers(layer.address for layer in layers), len(layers), x.data_ptr(), pointer(rotation)),
        *(_pointers(keys.data_ptr() for keys, _ in caches), _pointers(values.data_ptr() for _, values in caches)),
        *(position.data_ptr(), pointer(streams), y.data_ptr(), scratch.data_ptr()),
        *(batch, time, slots, window, caches[0][0].dtype == torch.bfloat16, torch.get_num_threads()),
    )
    return y


class FrameWriter:
    """What writes the codes of a frame, one after the other, in one call for all of them."""

    def __init__(
        self,
        layers: Sequence[PackedLayer],
        rotation: Tensor,
        caches: Sequence[tuple[Tensor, Tensor]],
        position: Tensor,
        norm: tuple[Tensor, float],
        output: PackedWeights,
        embeddings: Tensor,
    ) -> None:
        """Take what is the same for every frame of as many sequences.

        Of each codebook `rotation` complex64 [codebooks, B, head width / 2] and `position` [codebooks, B], both as in
        `run_layers`; the float32 `caches` of a frame; the gain and the epsilon of the root-mean-square normalization
        before the logits, and the map without bias that makes them; and of every code the vector [codes, width] that
        follows it.
        """
        self._layers, self._output = layers, output
        self._rotation, self._position = rotation.contiguous(), position.contiguous()
        # Detached: a parameter that is moved takes its memory along.
        self._caches, self._gain, epsilon = caches, norm[0].detach(), norm[1]
        self._embeddings = embeddings.detach().contiguous()
        self._books, self._batch = position.shape
        self._matrix = _Matrix(
            output.panels.data_ptr(), pointer(output.scale), None, output.vecs, output.inputs, output.outputs
        )
        room = layers[0].heads * -(-self._books // PANEL) * PANEL
        rows = self._batch * (7 * output.inputs + 3 * layers[0].hidden + room)
        self._scratch = torch.empty(rows + 3 * (output.outputs + PANEL))
        self._order = torch.empty(2 * output.outputs, dtype=torch.int32)
        self._before = (
            *(_pointers(layer.address for layer in layers), len(layers)),
            *(self._rotation.data_ptr(), _pointers(keys.data_ptr() for keys, _ in caches)),
            *(_pointers(values.data_ptr() for _, values in caches), self._position.data_ptr(), self._gain.data_ptr()),
            *(epsilon, ctypes.byref(self._matrix), _KIND_OF[output.panels.dtype], self._embeddings.data_ptr()),
        )

    def __call__(
        self, hidden: Tensor, uniform: Tensor, greedy: Tensor, top_p: float, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Map hidden states [B, width] to codes [codebooks, B], drawn as `draw_codes` does, and their logits
        [codebooks, B, codes]; `uniform` is [codebooks, B].

        Raises ValueError for another number of sequences.
        """
        if hidden.shape != (self._batch, self._output.inputs) or uniform.shape != (self._books, self._batch):
            raise ValueError(f"{len(hidden)} hidden states where {self._batch} sequences are written")
        hidden, uniform, greedy = hidden.contiguous(), uniform.contiguous(), greedy.contiguous()
        codes = torch.empty(self._books, self._batch, dtype=torch.int64)
        logits = torch.empty(self._books, self._batch, self._output.outputs)
        layers, count, *before = self._before
        loaded().write_frame(
            *(layers, count, hidden.data_ptr(), *before),
            *(tensor.data_ptr() for tensor in (uniform, greedy, codes, logits, self._scratch, self._order)),
            *(self._batch, self._books, top_p, temperature, torch.get_num_threads()),
        )
        return codes, logits


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
        loaded().residual_blocks(
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
            *(pointer(up.scale), wide_bias, pointer(down.scale), narrow_bias),
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
        loaded().convnext_block(
            *(self._reference, x.data_ptr(), past.data_ptr(), after.data_ptr(), y.data_ptr(), scratch.data_ptr()),
            *(batch, time, torch.get_num_threads()),
        )
        return y, after
