"""Tables of codes whose parts are shared in training: what one code learns, codes that are like it learn too.

An acoustic code is a number of several digits, its levels; a content code is its bits, or a vector of a codebook. As an
entry of a table each would have to be seen for itself, and most of thousands are seen rarely in an hour of speech. In
training an entry is therefore one of its own plus what is made of its traits. Once trained, the sums are a plain table,
and inference knows nothing else.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.streamvoiceanon.acoustic_lm import AcousticLM

HIDDEN = 128  # of what is made of a codebook's vectors
CODEBOOK = "quantizer.residual_bsq.rvqs.0.codebook.weight"  # of a content encoder that has one


class SharedTraits(nn.Module):
    """Adds to entry i of a table [codes, width] what is made of its traits; at first that is nothing."""

    traits: Tensor

    def __init__(self, traits: Tensor, width: int, hidden: int = 0) -> None:
        """`traits` are [codes, n]; through a layer of `hidden` units, or as they are."""
        super().__init__()
        self.register_buffer("traits", traits)
        first = [nn.Linear(traits.shape[1], hidden), nn.GELU()] if hidden else []
        last = nn.Linear(hidden or traits.shape[1], width, bias=False)
        nn.init.zeros_(last.weight)
        self.made = nn.Sequential(*first, last)

    def forward(self, table: Tensor) -> Tensor:
        return table + self.made(self.traits)


def digits_of(levels: tuple[int, ...], books: int = 1) -> Tensor:
    """Return [books x codes, books x sum of levels]: of each code, which level each of its places has, of each book.

    The first place is the least significant, as in `fsq`. Rows have unit length.
    """
    codes = torch.arange(math.prod(levels))
    columns, step = [], 1
    for level in levels:
        columns.append(nn.functional.one_hot(codes // step % level, level))
        step *= level
    one = torch.cat(columns, dim=1) / len(levels) ** 0.5
    return torch.block_diag(*[one] * books)


def share_codes(lm: AcousticLM, content: Tensor | int, levels: tuple[int, ...], seed: int) -> None:
    """Let the tables of a language model share what codes have in common: content, acoustic ones, and logits.

    `content` is the codebook [codes, n] of the content encoder, or how many bits its codes have; `levels` are those of
    the codec. Raises ValueError where there are not as many codes as that makes.
    """
    model = lm.decoder.model
    if isinstance(content, int):
        shared = SharedTraits(digits_of((2,) * content), lm.config.width)
    else:
        standard = (content - content.mean(0)) / content.std(0).clamp(min=1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shared = SharedTraits(standard.detach().clone(), lm.config.width, HIDDEN)
    tables: list[tuple[Any, SharedTraits]] = [
        (lm.embedding, shared),
        (model.codebook_embeddings, SharedTraits(digits_of(levels, lm.config.codebooks), lm.config.width)),
        (model.fast_embeddings, SharedTraits(digits_of(levels), lm.config.width)),
        (model.fast_output, SharedTraits(digits_of(levels), lm.config.width)),
    ]
    for table, traits in tables:
        if len(traits.traits) != len(table.weight):
            raise ValueError(f"a table of {len(table.weight)} codes, where there should be {len(traits.traits)}")
        parametrize.register_parametrization(table, "weight", traits)


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict with every table as inference knows it."""
    state = {}
    for key, value in network.state_dict().items():
        owner, _, inside = key.partition(".parametrizations.weight.")
        if not inside:
            state[key] = value
        elif inside == "original":
            state[f"{owner}.weight"] = network.get_submodule(owner).weight
    return {key: value.detach().cpu().clone() for key, value in state.items()}
