"""torch.compile changes no result. Without a GPU the plain networks are traced here and run as they are."""

import pytest
import torch
from torch import Tensor

from models.catalogue import AnonymizerSpec
from models.streamvoiceanon import StreamVoiceAnon, kernels
from models.streamvoiceanon import model as models


def test_the_compiled_model_says_what_the_plain_one_says(
    tiny_states: dict[str, dict[str, Tensor]],
    torch_model: StreamVoiceAnon,
    prompt_wave: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: False)
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(models, "COMPILER", count)
    compiled = StreamVoiceAnon.from_state_dicts(tiny_states, torch_model.config, compiled=True)
    voice = torch_model.make_voice(prompt_wave)
    wave = prompt_wave[: torch_model.sample_rate // 2]
    streamed = []
    for model in (compiled, torch_model):
        stream = model.open_stream(voice, seed=5)
        streamed.append(torch.cat([stream.push(wave), stream.finish()]))
    assert len(graphs) >= 4, "encoder, decoder and both transformers are compiled"
    assert torch.allclose(*streamed, atol=1e-4, rtol=0)


def test_compiling_is_refused_where_it_gains_nothing(
    tiny_states: dict[str, dict[str, Tensor]], tiny_model: StreamVoiceAnon
) -> None:
    if not kernels.available():
        pytest.skip("needs a C compiler")
    with pytest.raises(ValueError, match="for a GPU"):
        StreamVoiceAnon.from_state_dicts(tiny_states, tiny_model.config, compiled=True)


@pytest.mark.parametrize(
    "spec",
    [
        AnonymizerSpec("streamvoiceanon", "model", "bank", compiled=True),
        AnonymizerSpec("mcadams", device="cuda", compiled=True),
    ],
)
def test_who_asks_for_it_without_a_gpu_or_a_network_is_told(spec: AnonymizerSpec) -> None:
    with pytest.raises(ValueError, match="leave `compile` out"):
        spec.check()
