"""Tables of codes whose parts are shared in training: codes that are alike begin, and go on, alike.

A code is a number of several digits: the bits of a content code, the levels of an acoustic one. As entries of a table
each would have to be seen for itself, and most of thousands are seen rarely in an hour of speech. In training an entry
is therefore the sum of one of its own and of those of its digits. Once trained, the sums are a plain table, and
inference knows nothing else.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.streamvoiceanon.acoustic_lm import AcousticLM


class SharedDigits(nn.Module):
    """Adds to entry i of a table [codes, width] the entries of its digits."""

    digits: Tensor

    def __init__(self, digits: Tensor, table: Tensor) -> None:
        """`digits` [codes, places] holds, for each code, which of the shared entries are its own.

        What is shared begins as zeros, so that the sums begin as the table does.
        """
        super().__init__()
        self.register_buffer("digits", digits, persistent=False)
        self.shared = nn.Parameter(table.new_zeros(int(digits.max()) + 1, table.shape[1]))

    def forward(self, table: Tensor) -> Tensor:
        return table + nn.functional.embedding(self.digits, self.shared).sum(1) / self.digits.shape[1] ** 0.5


def digits_of(levels: tuple[int, ...], books: int = 1) -> Tensor:
    """Return the shared entries of each code, [books x codes, places]: for every book, place and level one of its own.

    The first place is the least significant, as in `fsq`.
    """
    codes = torch.arange(math.prod(levels))
    columns, first, step = [], 0, 1
    for level in levels:
        columns.append(first + codes // step % level)
        first, step = first + level, step * level
    one = torch.stack(columns, dim=1)
    return torch.cat([one + book * first for book in range(books)])


def share_digits(lm: AcousticLM, bits: int, levels: tuple[int, ...]) -> None:
    """Let the tables of a language model share digits: content codes of `bits`, acoustic ones of `levels`, and logits.

    Raises ValueError where there are not as many codes as digits make.
    """
    model = lm.decoder.model
    for table, digits in (
        (lm.embedding, digits_of((2,) * bits)),
        (model.codebook_embeddings, digits_of(levels, lm.config.codebooks)),
        (model.fast_embeddings, digits_of(levels)),
        (model.fast_output, digits_of(levels)),
    ):
        if len(digits) != len(table.weight):
            raise ValueError(f"a table of {len(table.weight)} codes, where its digits make {len(digits)}")
        parametrize.register_parametrization(table, "weight", SharedDigits(digits, table.weight))


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
