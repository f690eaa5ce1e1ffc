"""What the compiled kernels take by themselves: matrices read cold and warm, and the decoder's residual blocks.

    OMP_NUM_THREADS=1 python -m benchmarks.kernels
    OMP_NUM_THREADS=2 python -m benchmarks.kernels

Milliseconds, the median of nine runs. "Apart" are 52 matrices of 2,304 x 768, which no cache holds together, "the same"
is one of them 52 times. Residual blocks of one live frame: in float32, in tiles where the processor has some, and by
PyTorch; and how far tiles are from PyTorch, as a share of the result's deviation.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models.streamvoiceanon import kernels
from models.streamvoiceanon.codec import CodecConfig, ParallelBlock

MATRICES, OUTPUTS, INPUTS = 52, 2_304, 768
STAGES = ((256, 32), (128, 256), (64, 512), (32, 1_024), (16, 2_048))  # channels and instants of a frame


def main() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        print(f"{torch.get_num_threads()} threads\nweights, rows      apart   the same   GB/s apart")
        for kind in kernels.KINDS:
            held = [kernels.pack_weights(torch.randn(OUTPUTS, 1, INPUTS), kind) for _ in range(MATRICES)]
            for rows in (1, 2, 4):
                x = torch.randn(1, rows, INPUTS)
                apart, same = (median_ms(partial(multiply, x, each)) for each in (held, held[:1] * MATRICES))
                read = sum(weights.panels.nbytes for weights in held) / apart / 1e6
                print(f"{kind:>8}, {rows:<6}{apart:>9.1f}{same:>11.1f}{read:>13.1f}")
        print("\nchannels, instants   float32    tiles  PyTorch   difference")
        for channels, instants in STAGES:
            print(f"{channels:>8},{instants:>9}" + residual_blocks(channels, instants))


def multiply(x: Tensor, held: list[kernels.PackedWeights]) -> None:
    """Multiply rows [1, rows, inputs] with each matrix."""
    for weights in held:
        kernels.convolve(x, weights, None)


def residual_blocks(channels: int, instants: int) -> str:
    """Return a line's times and the distance of the packed blocks from PyTorch's."""
    config = CodecConfig()
    plain, exact, tiled = (ParallelBlock(channels, config.kernels, config.dilations).eval() for _ in range(3))
    for block, kind in ((exact, "float32"), (tiled, "int16")):
        block.load_state_dict(plain.state_dict())
        block.pack(kind)  # type: ignore[arg-type]
    x, state = torch.randn(1, instants, channels), plain.initial_state(1)
    times = [median_ms(partial(block, x, state)) for block in (exact, tiled, plain)]
    expected, found = plain(x, state)[0], tiled(x, state)[0]
    far = float((found - expected).abs().max() / expected.std())
    return "".join(f"{each:>10.2f}" for each in times) + f"{far:>13.1e}"


def median_ms(run: Callable[[], object]) -> float:
    """Return the median milliseconds of nine runs."""
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 1e3 * sorted(seconds)[4]


if __name__ == "__main__":
    main()
