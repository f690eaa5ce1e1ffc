"""Random weights to start from. The networks are otherwise only ever loaded into, and carry no scheme of their own."""

import torch
from torch import nn

from models.streamvoiceanon.conv import ConvNeXtBlock
from models.streamvoiceanon.transformer import LayerScale, RMSNorm

DEVIATION = 0.02
RESIDUAL_GAIN = 0.1


def initialise(network: nn.Module, seed: int) -> None:
    """Fill a network with random weights that depend on `seed` and on nothing else.

    Linear maps and embeddings are normal with deviation 0.02, convolutions keep the variance of their input, biases are
    zero, and what a residual branch adds is scaled down by its gain, so that a deep network begins as a shallow one.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=DEVIATION, generator=generator)
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d):
            fan_in = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose1d):
                fan_in = module.in_channels
            nn.init.normal_(module.weight, std=fan_in**-0.5, generator=generator)
        elif isinstance(module, ConvNeXtBlock | LayerScale):
            nn.init.constant_(module.gamma, RESIDUAL_GAIN)
        elif isinstance(module, RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
