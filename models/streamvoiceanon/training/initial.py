"""Random weights to start from. The networks are otherwise only ever loaded into, and carry no scheme of their own."""

import torch
from torch import nn

from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.config import Config
from models.streamvoiceanon.content_encoder import BinarySphericalQuantizer, ContentEncoder
from models.streamvoiceanon.conv import ConvNeXtBlock
from models.streamvoiceanon.fsq import FiniteScalarQuantizer
from models.streamvoiceanon.full_context import FullContext
from models.streamvoiceanon.transformer import LayerScale, RMSNorm

DEVIATION = 0.02
RESIDUAL_GAIN = 0.1


def fresh_networks(config: Config, seed: int) -> dict[str, nn.Module]:
    """The networks that are trained here, by name, with random weights; the language model with its content head."""
    networks: dict[str, nn.Module] = {
        "acoustic_lm": AcousticLM(config.acoustic_lm, content_head=True),
        "content_encoder": ContentEncoder(config.content_encoder, config.frames),
        "codec": Codec(config.codec, config.frames),
    }
    if config.full_context is not None:
        networks["full_context"] = FullContext(config.full_context, config.content_encoder.code_width)
    for network in networks.values():
        initialise(network, seed)
    return networks


def initialise(network: nn.Module, seed: int) -> None:
    """Fill a network with random weights that depend on `seed` and on nothing else.

    Linear maps and embeddings are normal with deviation 0.02, convolutions and what is quantized keep the variance of
    their input, biases are zero, and what a residual branch adds is scaled down by its gain, so that a deep network
    begins as a shallow one.
    """
    generator = torch.Generator().manual_seed(seed)
    wide: set[nn.Module] = set()
    for module in network.modules():
        if isinstance(module, FiniteScalarQuantizer | BinarySphericalQuantizer):
            wide.add(module.project_in)  # or every code would be the middle one
    for module in network.modules():
        if module in wide:
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)  # type: ignore[arg-type, operator]
        elif isinstance(module, nn.Linear | nn.Embedding):
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
