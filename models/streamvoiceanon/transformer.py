"""The transformer of the content encoder and of the acoustic language model, with a key-value cache for every stream.

Positions are counted per stream from 0. A rotary row is made for whatever position comes up, so a stream has no last
position; what attention computes depends on the distance between query and key alone, and that distance is bounded by
the window (content encoder) or by the refill rule (acoustic language model).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streamvoiceanon import fused, kernels
from models.streamvoiceanon.linear import Linear

ROTARY_BASE = 10_000.0
TABLE_ROWS = 2_048


class KeyValueCache(NamedTuple):
    """Keys and values [streams, heads, slots, head width] of one layer: position p of a stream lies in slot p mod
    slots.

    It is written in place. A chunk of n positions overwrites only what is out of sight, which holds where
    `slots >= window + chunk - 1`.
    """

    keys: Tensor
    values: Tensor


@dataclass
class TransformerState:
    """A cache for every layer, and for every stream of the batch how many positions it has seen and where its cache
    lies.

    `position` is int64 [B], on the CPU. `streams`, int64 [B], names the cache row of each; None: row b is stream b.
    """

    caches: tuple[KeyValueCache, ...]
    position: Tensor
    streams: Tensor | None = None

    def take(self, streams: Tensor) -> "TransformerState":
        return TransformerState(self.caches, self.position[streams], streams)

    def put(self, streams: Tensor, moved: "TransformerState") -> None:
        self.position[streams] = moved.position

    def restart(self, stream: int) -> None:
        """Forget a stream; what its cache still holds lies past its position, where no query looks."""
        self.position[stream] = 0

    def moved(self, length: int) -> "TransformerState":
        """The state after a chunk of `length` positions."""
        return replace(self, position=self.position + length)


def _frequencies(head_width: int) -> Tensor:
    return 1.0 / ROTARY_BASE ** (torch.arange(0, head_width, 2).float() / head_width)


def _rounded_rotation(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=-1).bfloat16()


def rotary_table(head_width: int) -> Tensor:
    """cos and sin of the first 2,048 positions, bfloat16 [2048, head width / 2, 2], as published."""
    with torch.device("cpu"):
        return _rounded_rotation(torch.outer(torch.arange(TABLE_ROWS).float(), _frequencies(head_width)))


def rotations(table: Tensor, positions: Tensor) -> Tensor:
    """Map positions [B, n] (on the CPU) to cos + i sin, complex64 [B, n, 1, head width / 2].

    Rows past the table's last are computed in float64, where a position of several days still has an exact angle, and
    rounded alike.
    """
    rows = table[positions.clamp(max=TABLE_ROWS - 1).to(table.device)].float()
    if positions.numel() and int(positions.max()) >= TABLE_ROWS:
        angles = positions.double().unsqueeze(-1) * _frequencies(2 * table.shape[1]).double()
        beyond = (positions >= TABLE_ROWS).view(*positions.shape, 1, 1).to(table.device)
        rows = torch.where(beyond, _rounded_rotation(angles).float().to(table.device), rows)
    return torch.view_as_complex(rows).unsqueeze(2)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of [B, n, heads, width] by [B, n, 1, width / 2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


class LayerScale(nn.Module):
    """A learned gain for every channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class RMSNorm(nn.Module):
    """Root-mean-square normalization over the last axis, in float32 whatever the input."""

    EPSILON = 1e-5
    packed = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def pack(self, kind: kernels.WeightType) -> None:
        self.packed = True

    def forward(self, x: Tensor) -> Tensor:
        if self.packed:
            return kernels.rms_norm(x, self.weight, self.EPSILON)
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), eps=self.EPSILON).to(x.dtype)


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(width, hidden, bias=False)
        self.w3 = Linear(width, hidden, bias=False)
        self.w2 = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Sight:
    """What the layers of one pass share: where a chunk of each stream lies, how to rotate it, and what it may see.

    The chunk holds `length` positions after those that `state` has seen; a query sees the last `window` positions of
    its own stream, itself included.
    """

    def __init__(self, state: TransformerState, length: int, window: int, table: Tensor | None = None) -> None:
        self.position, self.streams, self.window = state.position, state.streams, window
        self._slots = state.caches[0].keys.shape[2]
        self._positions = self.position.unsqueeze(1) + torch.arange(length)  # (B, n), on the CPU
        self._device = state.caches[0].keys.device
        self._table = table

    @functools.cached_property
    def rotation(self) -> Tensor | None:
        """How queries and keys are rotated: see `rotations`; None where they are not."""
        return None if self._table is None else rotations(self._table, self._positions)

    @functools.cached_property
    def rows(self) -> Tensor:
        """The cache row of each stream: int64 [B, 1]."""
        rows = torch.arange(len(self.position)) if self.streams is None else self.streams
        return rows.unsqueeze(1).to(self._device)

    @functools.cached_property
    def slots(self) -> Tensor:
        """Where the chunk's keys and values go: int64 [B, n]."""
        return (self._positions % self._slots).to(self._device)

    @functools.cached_property
    def visible(self) -> int:
        """How many slots, from slot 0, any query may see."""
        return min(self._slots, int(self._positions.max()) + 1)

    @functools.cached_property
    def mask(self) -> Tensor | None:
        """Which slots each query sees: bool [B, 1, n, visible]; None where every query sees every slot."""
        last = self._positions[:, -1:]
        held = last - (last - torch.arange(self.visible)) % self._slots  # (B, visible): the position in each slot
        distance = self._positions.unsqueeze(2) - held.unsqueeze(1)  # (B, n, visible)
        mask = (distance >= 0) & (distance < self.window) & (held >= 0).unsqueeze(1)
        return None if bool(mask.all()) else mask.unsqueeze(1).to(self._device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, cache: KeyValueCache) -> Tensor:
        """Map queries, keys and values of the chunk, each [B, n, heads, head width], to [B, n, width].

        Writes the keys and values into `cache`.
        """
        cache.keys[self.rows, :, self.slots] = k.to(cache.keys.dtype)
        cache.values[self.rows, :, self.slots] = v.to(cache.values.dtype)
        keys, values = cache.keys[:, :, : self.visible], cache.values[:, :, : self.visible]
        if self.streams is not None:
            keys, values = keys[self.rows.squeeze(1)], values[self.rows.squeeze(1)]
        y = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=self.mask)
        return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Causal self-attention over a key-value cache."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = Linear(width, 3 * width, bias=False)
        self.wo = Linear(width, width, bias=False)

    def forward(self, x: Tensor, cache: KeyValueCache, sight: Sight) -> Tensor:
        """Map [B, n, width] to [B, n, width]; writes the new keys and values into `cache`."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, n, heads, head width)
        assert sight.rotation is not None
        q, k = rotate(q, sight.rotation), rotate(k, sight.rotation)
        return self.wo(sight.attend(q, k, v, cache))


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward, each scaled where `layer_scale` says so and added to its input."""

    packed: fused.PackedLayer | None = None

    def __init__(self, width: int, heads: int, hidden: int, layer_scale: bool) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = RMSNorm(width), RMSNorm(width)
        self.attention, self.feed_forward = Attention(width, heads), FeedForward(width, hidden)
        if layer_scale:
            self.attention_layer_scale, self.ffn_layer_scale = LayerScale(width), LayerScale(width)
        else:
            self.attention_layer_scale = self.ffn_layer_scale = nn.Identity()  # type: ignore[assignment]

    def pack(self, kind: kernels.WeightType) -> None:
        """Hold the weights as `kind` and run the whole layer in one call, for inference on a CPU."""
        attention, feed_forward = self.attention, self.feed_forward
        gates = torch.cat([feed_forward.w1.weight, feed_forward.w3.weight])
        scales = (self.attention_layer_scale, self.ffn_layer_scale)
        self.packed = fused.PackedLayer(
            (attention.wqkv.weight, attention.wo.weight, gates, feed_forward.w2.weight),
            tuple(scale.gamma if isinstance(scale, LayerScale) else None for scale in scales),  # type: ignore[arg-type]
            ((self.attention_norm.weight, None), (self.ffn_norm.weight, None)),
            attention.heads,
            RMSNorm.EPSILON,
            kind,
        )
        for linear in (attention.wqkv, attention.wo, feed_forward.w1, feed_forward.w2, feed_forward.w3):
            linear.weight = None  # type: ignore[assignment]

    def forward(self, x: Tensor, cache: KeyValueCache, sight: Sight) -> Tensor:
        """Map [B, n, width] to [B, n, width]; writes the new keys and values into `cache`."""
        x = x + self.attention_layer_scale(self.attention(self.attention_norm(x), cache, sight))
        return x + self.ffn_layer_scale(self.feed_forward(self.ffn_norm(x)))


def run_layers(layers: nn.ModuleList, x: Tensor, caches: Sequence[KeyValueCache], sight: Sight) -> Tensor:
    """Map [B, n, width] to [B, n, width] through all layers; writes the new keys and values into their caches."""
    packed = [layer.packed for layer in layers if isinstance(layer.packed, fused.PackedLayer)]
    if packed:
        return fused.run_layers(packed, x, sight.rotation, caches, sight.position, sight.streams, sight.window)
    for layer, cache in zip(layers, caches, strict=True):
        x = layer(x, cache, sight)
    return x


def new_caches(
    layers: nn.ModuleList, batch: int, slots: int, dtype: torch.dtype | None = None
) -> tuple[KeyValueCache, ...]:
    """Return one empty cache a layer, beside the layers' weights; of their type unless `dtype` says otherwise."""
    first = layers[0]
    gain: Tensor = first.attention_norm.weight  # type: ignore[union-attr, assignment]
    heads: int = first.attention.heads  # type: ignore[union-attr, assignment]
    shape = (batch, heads, slots, gain.shape[0] // heads)
    size = math.prod(shape)
    room = torch.empty(2 * len(layers) * size, dtype=dtype or gain.dtype, device=gain.device)
    kernels.in_large_pages(room).zero_()
    # Tensors of their own and not views, which could not be written while gradients are recorded.
    strides = (math.prod(shape[1:]), math.prod(shape[2:]), shape[3], 1)
    parts = [room.new_empty(0).set_(room.untyped_storage(), i * size, shape, strides) for i in range(2 * len(layers))]
    return tuple(KeyValueCache(*pair) for pair in zip(parts[::2], parts[1::2], strict=True))


class WindowedTransformer(nn.Module):
    """Layers that see the last `window` positions of a stream, and a last normalization."""

    freqs_cis: Tensor

    def __init__(self, width: int, heads: int, hidden: int, depth: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("freqs_cis", rotary_table(width // heads))
        self.layers = nn.ModuleList(TransformerLayer(width, heads, hidden, layer_scale=True) for _ in range(depth))
        self.norm = RMSNorm(width)

    def initial_state(self, batch: int, chunk: int) -> TransformerState:
        """An empty state for chunks of at most `chunk` positions."""
        slots = self.window + chunk - 1
        return TransformerState(new_caches(self.layers, batch, slots), torch.zeros(batch, dtype=torch.int64))

    def forward(self, x: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Map [B, n, width] to [B, n, width], and the state on."""
        chunk = state.caches[0].keys.shape[2] - self.window + 1
        if x.shape[1] > chunk:
            raise ValueError(f"a chunk of {x.shape[1]} positions in a state made for {chunk}")
        sight = Sight(state, x.shape[1], self.window, self.freqs_cis)
        return self.norm(run_layers(self.layers, x, state.caches, sight)), state.moved(x.shape[1])
