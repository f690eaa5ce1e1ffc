"""The decoder's residual blocks in a processor's matrix tiles, and without them."""

import itertools

import pytest
import torch
from torch import Tensor

from models.streamvoiceanon import kernels
from models.streamvoiceanon.codec import ParallelBlock

WIDTHS = (16, 32, 64, 96)  # channels: half a tile's depth, one, two, and blocks of outputs that are odd in number


@pytest.fixture(params=[True, False], ids=["tiles", "no tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether tiles are used; skips where the processor has none."""
    if not kernels.available():
        pytest.skip("needs a C compiler")
    if request.param and not kernels.has_tiles():
        pytest.skip("this processor has no matrix tiles, or its sandbox forbids them")
    monkeypatch.setattr(kernels, "has_tiles", lambda: request.param)
    return bool(request.param)


def blocks(channels: int) -> tuple[ParallelBlock, ParallelBlock]:
    """One set of random residual blocks, as PyTorch runs it and packed."""
    torch.manual_seed(channels)
    plain, packed = (ParallelBlock(channels, (3, 7), (1, 5)).eval() for _ in range(2))
    packed.load_state_dict(plain.state_dict())
    packed.pack("int16")
    return plain, packed


def pushed(block: ParallelBlock, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Push [B, n, channels] through in chunks whose sizes take turns."""
    state, parts, start = block.initial_state(len(x)), [], 0
    turns = itertools.cycle(sizes)
    while start < x.shape[1]:
        size = next(turns)
        y, state = block(x[:, start : start + size], state)
        parts.append(y)
        start += size
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("channels", WIDTHS)
def test_residual_blocks_compute_what_plain_torch_does(channels: int, tiles: bool) -> None:
    plain, packed = blocks(channels)
    assert all((weights.function == "residual_blocks") is tiles for weights in packed.packed.weights)  # type: ignore[union-attr]
    x = torch.randn(2, 77, channels)
    with torch.inference_mode():
        expected, _ = plain(x, plain.initial_state(2))
        computed, _ = packed(x, packed.initial_state(2))
    # 12 convolutions of products that are off by 2^-15 at most, in both directions: far less than one bfloat16 step.
    assert (computed - expected).abs().max() < 2e-5 * expected.std()


@pytest.mark.parametrize("channels", WIDTHS)
def test_residual_blocks_are_the_same_in_any_chunks_and_any_batch(channels: int, tiles: bool) -> None:
    _, packed = blocks(channels)
    x = torch.randn(3, 77, channels)
    with torch.inference_mode():
        whole = pushed(packed, x, (77,))
        assert torch.equal(pushed(packed, x, (1, 16, 33, 5)), whole)
        assert torch.equal(pushed(packed, x[1:2], (40,)), whole[1:2])


def test_what_is_beside_a_row_in_its_tile_does_not_reach_it(tiles: bool) -> None:
    _, packed = blocks(32)
    x = torch.randn(2, 20, 32)
    with torch.inference_mode():
        clean = pushed(packed, x, (20,))
        x[1] = torch.nan
        assert torch.equal(pushed(packed, x, (20,))[0], clean[0])


def test_where_float32_is_asked_for_there_are_no_tiles(tiles: bool) -> None:
    assert kernels.pack_residual(torch.randn(32, 3, 32), "float32").function == "convolve_f32"


def test_channels_that_fill_no_tile_stay_in_float32(tiles: bool) -> None:
    assert kernels.pack_residual(torch.randn(24, 3, 24), "int16").function == "convolve_f32"
    assert kernels.pack_residual(torch.randn(48, 3, 48), "int16").function == "convolve_f32"
