"""Fine-tuning reads what inference reads, counts the source alone, and exports what was loaded and nothing more."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.streamvoiceanon import StreamVoiceAnon, Voice
from models.streamvoiceanon.acoustic_lm import AcousticLMConfig
from models.streamvoiceanon.checkpoint import CheckpointError, contract
from models.streamvoiceanon.training.language_model import (
    LanguageModelTask,
    LanguageModelTaskConfig,
    collate_language_model,
    corrupt,
    distance,
    language_model,
    slow_states,
)
from models.streamvoiceanon.training.task import Batch

TEACHER = 12  # width of the teacher's frames
Item = dict[str, np.ndarray]


def make_item(prompt: int, source: int, seed: int) -> Item:
    draw = np.random.default_rng(seed)
    return {
        "prompt_content": draw.integers(0, 8192, prompt),
        "prompt_acoustic": draw.integers(0, 1000, (8, prompt)),
        "source_content": draw.integers(0, 8192, source),
        "source_acoustic": draw.integers(0, 1000, (8, source)),
        "style": draw.normal(size=192),
        "timbre": draw.normal(size=(32, 128)),
        "teacher": draw.normal(size=(source, TEACHER)),
    }


@pytest.fixture
def items() -> list[Item]:
    return [make_item(6, 11, 1), make_item(3, 20, 2), make_item(9, 1, 3)]


@pytest.fixture
def task(tiny_model: StreamVoiceAnon, tiny_states: Any) -> LanguageModelTask:
    lm = language_model(tiny_model.config.acoustic_lm, tiny_states["acoustic_lm"])
    return LanguageModelTask(lm, LanguageModelTaskConfig(teacher_width=TEACHER))


def trained_lm(task: LanguageModelTask) -> Any:
    return task.players["lm"].lm


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rounded(figures: dict[str, Tensor]) -> dict[str, float]:
    return {name: round(float(value.detach()), 5) for name, value in figures.items()}


@pytest.mark.parametrize("delay", [0, 2, 8])
def test_what_generation_writes_is_what_training_finds_likeliest(torch_model: StreamVoiceAnon, task, delay) -> None:
    """Greedy codes of the streaming code path, fed back in a padded batch, are the arg max at every frame."""
    items = [make_item(6, 11, 1), make_item(9, 20, 2)]
    for item in items:
        style, timbre = (torch.from_numpy(item[name]).float() for name in ("style", "timbre"))
        prompt, acoustic = (torch.from_numpy(item[f"prompt_{name}"]) for name in ("content", "acoustic"))
        source = torch.from_numpy(item["source_content"])
        voice = Voice(prompt, acoustic, style, timbre)
        item["source_acoustic"] = torch_model.generate(source, voice, delay, greedy=True).numpy()
    batch = collate_language_model(items)
    lm = trained_lm(task)
    with torch.no_grad():
        at_content, _ = slow_states(lm, batch, delay)
        for i, item in enumerate(items):
            prompt, length = len(item["prompt_content"]), int(batch["lengths"][i])
            hidden = at_content[i, prompt + delay : length + delay]
            codes = torch.from_numpy(item["source_acoustic"]).T
            assert torch.equal(lm.frame_logits(hidden, codes).argmax(-1), codes)


@pytest.mark.slow
def test_teacher_forced_states_and_logits_are_the_originals(full_states, vectors) -> None:
    """Section 7 of the network's description: what the published network computes, to its tolerance of 1e-3."""
    item = {
        "prompt_content": vectors["prompt_content_codes"][:16],
        "prompt_acoustic": vectors["prompt_acoustic_codes"][:, :16],
        "source_content": vectors["source_content_codes"][:3],
        "source_acoustic": vectors["given_acoustic_codes"].unsqueeze(1).repeat(1, 3),  # past what is looked at
        "style": vectors["prompt_style_vector"],
        "timbre": vectors["prompt_timbre_latents"],
    }
    batch = collate_language_model([{name: value.numpy() for name, value in item.items()}])
    lm = language_model(AcousticLMConfig(), full_states["acoustic_lm"])
    with torch.no_grad():
        at_content, _ = slow_states(lm, batch, delay=2)
        hidden = at_content[:, 18]
        logits = lm.frame_logits(hidden, vectors["given_acoustic_codes"].unsqueeze(0))
        content = lm.content_logits(hidden)
    for ours, theirs in (
        (hidden, "teacher_forced_hidden"),
        (logits, "teacher_forced_acoustic_logits"),
        (content, "teacher_forced_content_logits"),
    ):
        assert float((ours[0] - vectors[theirs]).abs().max()) < 1e-3


def test_a_few_steps_bring_every_loss_down(task: LanguageModelTask, items: list[Item]) -> None:
    batch = collate_language_model(items)
    before = task.validate(batch)
    optimizer = torch.optim.AdamW(task.players["lm"].parameters(), lr=3e-3)
    draw = generator()
    for _ in range(30):
        optimizer.zero_grad()
        task.losses("lm", batch, draw)["total"].backward()
        optimizer.step()
    after = task.validate(batch)
    for name in ("acoustic", "content", "emotion"):
        assert after[name] < 0.8 * before[name], name


def test_the_delay_is_drawn_from_the_generator(task: LanguageModelTask, items: list[Item]) -> None:
    batch = collate_language_model(items)
    totals = {float(task.losses("lm", batch, generator(seed))["total"].detach()) for seed in range(12)}
    assert 4 <= len(totals) <= 9
    assert rounded(task.losses("lm", batch, generator(3))) == rounded(task.losses("lm", batch, generator(3)))


def test_what_padding_holds_does_not_count(task: LanguageModelTask, items: list[Item]) -> None:
    batch = collate_language_model(items)
    expected = rounded(task.validate(batch))
    for i, length in enumerate(batch["lengths"].tolist()):
        batch["content"][i, length:] = 77
        batch["acoustic"][i, :, length:] = 77
        batch["teacher"][i, length - int(batch["prompt_lengths"][i]) :] = 1e6
    assert rounded(task.validate(batch)) == expected


def test_a_batch_costs_what_its_items_cost(task: LanguageModelTask, items: list[Item]) -> None:
    """Every frame of a source weighs the same, whichever utterance it is of; prompts weigh nothing."""
    alone = [task.validate(collate_language_model([item])) for item in items]
    frames = torch.tensor([len(item["source_content"]) for item in items]).float()
    together = task.validate(collate_language_model(items))
    for name in ("acoustic", "emotion"):
        parts = torch.stack([figures[name] for figures in alone])
        assert float(together[name]) == pytest.approx(float((parts * frames).sum() / frames.sum()), rel=1e-4)
    parts = torch.stack([figures["content"] for figures in alone])
    known = frames - 1  # what follows the last frame is not known
    assert float(together["content"]) == pytest.approx(float((parts * known).sum() / known.sum()), rel=1e-4)


def test_the_emotion_loss_moves_what_the_acoustic_places_hold(task: LanguageModelTask, items: list[Item]) -> None:
    """Its gradient reaches the slow transformer, and the frame that an acoustic place reads."""
    batch = collate_language_model(items)
    lm = trained_lm(task)
    figures = {}
    for weight in (0.0, 5.0):
        task.config = LanguageModelTaskConfig(teacher_width=TEACHER, distillation_weight=weight)
        task.players["lm"].zero_grad()
        task.losses("lm", batch, generator())["total"].backward()
        figures[weight] = lm.decoder.model.layers[0].attention.wqkv.weight.grad.clone()
    assert not torch.allclose(figures[0.0], figures[5.0])


def test_a_probe_learns_what_hidden_states_tell_and_moves_nothing_else(tiny_model, tiny_states, items) -> None:
    batch = collate_language_model(items)
    gradients = []
    for width in (0, TEACHER):
        lm = language_model(tiny_model.config.acoustic_lm, tiny_states["acoustic_lm"])
        task = LanguageModelTask(lm, LanguageModelTaskConfig(teacher_width=width, distillation_weight=0.0))
        task.losses("lm", batch, generator())["total"].backward()
        gradients.append({name: p.grad for name, p in lm.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())
    head = task.players["lm"].emotion_head
    assert all(float(p.grad.abs().max()) > 0 for p in head.layers[1].parameters())
    figures = task.validate(batch)
    assert float(figures["total"]) == pytest.approx(float(figures["acoustic"] + figures["content"]), rel=1e-5)


def test_channels_of_a_teacher_weigh_alike_however_loud_they_are(tiny_model, tiny_states, items) -> None:
    """What is left of a teacher whose every frame is nearly the same is what changes."""
    distances = []
    for scale, offset in ((1.0, 0.0), (100.0, 5_000.0)):
        for item in items:
            item["teacher"] = (
                item["teacher"] * np.r_[scale, np.ones(TEACHER - 1)] + np.r_[offset, np.zeros(TEACHER - 1)]
            )
        lm = language_model(tiny_model.config.acoustic_lm, tiny_states["acoustic_lm"])
        task = LanguageModelTask(lm, LanguageModelTaskConfig(teacher_width=TEACHER))
        distances.append(float(task.losses("lm", collate_language_model(items), generator())["emotion"]))
    assert distances[0] == pytest.approx(distances[1], abs=2e-3)
    assert distances[0] > 0.8, "a head that has learned nothing is about as far away as chance"


@pytest.mark.parametrize(("kind", "expected"), [("cosine", 1.0), ("mse", 1.0)])
def test_distances_have_their_known_values(kind: Any, expected: float) -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(distance(a, b, kind)) == pytest.approx(expected)
    assert float(distance(a, a, kind)) == pytest.approx(0.0, abs=1e-6)


def test_an_export_has_the_names_and_shapes_that_were_loaded(task: LanguageModelTask, tiny_states) -> None:
    exported = task.export()
    assert exported.keys() == {"acoustic_lm"}
    published = {
        key for key in contract()["acoustic_lm"]["tensors"] if "mask" not in key and key != "embeddings.weight"
    }
    assert exported["acoustic_lm"].keys() <= published
    loaded = {key: value.shape for key, value in tiny_states["acoustic_lm"].items() if key in published}
    head = {f"decoder.model.{key}.weight" for key in ("norm", "output")}  # of content, which inference does not build
    assert exported["acoustic_lm"].keys() == loaded.keys() | head
    assert {key: exported["acoustic_lm"][key].shape for key in loaded} == loaded


def test_an_export_is_loaded_and_costs_what_the_original_costs(task, items, tiny_model, tiny_states) -> None:
    optimizer = torch.optim.SGD(task.players["lm"].parameters(), lr=0.1)
    task.losses("lm", collate_language_model(items), generator())["total"].backward()
    optimizer.step()
    tuned = StreamVoiceAnon.from_state_dicts({**tiny_states, **task.export()}, tiny_model.config)
    assert tuned.parameters_held() == tiny_model.parameters_held()
    voice = tiny_model.make_voice(torch.randn(8_000, generator=generator()) * 0.1)
    seconds: dict[str, list[float]] = {"tuned": [], "original": []}
    for _ in range(9):  # in turn, so that a busy machine disturbs both
        for name, model in (("tuned", tuned), ("original", tiny_model)):
            start = time.process_time()
            model.generate(torch.arange(20), voice, generator=generator())
            seconds[name].append(time.process_time() - start)
    assert min(seconds["tuned"]) < 1.5 * min(seconds["original"]), "the same layers, in the same time"
    changed = tuned.acoustic_lm.embedding.weight != tiny_model.acoustic_lm.embedding.weight
    assert 0 < int(changed.any(dim=1).sum()) <= sum(len(i["prompt_content"]) + len(i["source_content"]) for i in items)


def test_a_converted_checkpoint_without_content_head_can_be_tuned(tiny_model, tiny_states) -> None:
    weights = {k: v for k, v in tiny_states["acoustic_lm"].items() if "model.norm" not in k and "model.output" not in k}
    lm = language_model(tiny_model.config.acoustic_lm, weights)
    assert torch.equal(lm.embedding.weight, weights["embedding.weight"])
    assert float(lm.decoder.model.output.weight.std()) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(CheckpointError, match="is missing"):
        language_model(tiny_model.config.acoustic_lm, {k: v for k, v in weights.items() if k != "embedding.weight"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source_acoustic": np.zeros((8, 3), np.int64)}, "item 1: content and acoustic codes differ in length"),
        ({"source_content": np.zeros(0, np.int64), "source_acoustic": np.zeros((8, 0), np.int64)}, "item 1: .* empty"),
        (
            {"source_content": np.zeros(800, np.int64), "source_acoustic": np.zeros((8, 800), np.int64)},
            "item 1: 3 frames of prompt and 800 of source pass the limit of 768",
        ),
        ({"teacher": np.zeros((4, TEACHER))}, "item 1: 4 teacher frames for 20 frames of source"),
    ],
)
def test_items_that_cannot_be_trained_on_are_named(items: list[Item], changed: Item, message: str) -> None:
    items[1] = items[1] | changed
    with pytest.raises(ValueError, match=message):
        collate_language_model(items)


def test_a_batch_is_padded_tensors_and_lengths(items: list[Item]) -> None:
    batch: Batch = collate_language_model(items)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "content": (3, 23),
        "acoustic": (3, 8, 23),
        "prompt_lengths": (3,),
        "lengths": (3,),
        "style": (3, 192),
        "timbre": (3, 32, 128),
        "teacher": (3, 20, TEACHER),
    }
    assert batch["lengths"].tolist() == [17, 23, 10]


def test_a_share_of_the_past_is_read_as_other_frames(items: list[Item]) -> None:
    batch = collate_language_model([make_item(90, 300, 1), make_item(40, 200, 2)])
    read = corrupt(batch, 0.25, generator())
    changed = (read["acoustic"] != batch["acoustic"]).any(1)
    inside = torch.arange(changed.shape[1]) < batch["lengths"].unsqueeze(1)
    assert 0.2 < changed[inside].float().mean() < 0.3
    frames = {tuple(frame) for row in batch["acoustic"] for frame in row.T.tolist() if any(frame)}
    assert {tuple(frame) for frame in read["acoustic"].transpose(1, 2)[changed & inside].tolist()} <= frames
    assert all(torch.equal(read[name], batch[name]) for name in batch if name != "acoustic")
    assert torch.equal(read["acoustic"], corrupt(batch, 0.25, generator())["acoustic"])


def test_what_is_predicted_is_not_corrupted(tiny_model: StreamVoiceAnon, tiny_states: Any, items: list[Item]) -> None:
    """With all of the past wrong a loss changes, and a validation does not."""
    batch = collate_language_model(items)
    plain, wrong = (
        LanguageModelTask(
            language_model(tiny_model.config.acoustic_lm, tiny_states["acoustic_lm"]),
            LanguageModelTaskConfig(corrupted=share),
        )
        for share in (0.0, 0.99)
    )
    assert rounded(plain.validate(batch)) == rounded(wrong.validate(batch))
    seen: list[Tensor] = []
    forward = trained_lm(wrong).frame_logits
    trained_lm(wrong).frame_logits = lambda hidden, codes: seen.append(codes) or forward(hidden, codes)
    losses = wrong.losses("lm", batch, generator())
    assert rounded(losses) != rounded(plain.losses("lm", batch, generator()))
    sources = [torch.from_numpy(item["source_acoustic"]).T for item in items]
    assert torch.equal(seen[0], torch.cat(sources))
