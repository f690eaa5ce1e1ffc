"""Training the content encoder: codes stay in use, tell the teacher's frames, and forget the speaker."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.streamvoiceanon.config import build_networks
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.training.audio import collate_waves
from models.streamvoiceanon.training.content import (
    ContentTask,
    ContentTaskConfig,
    code_numbers,
    entropies,
    on_corner,
    pooled,
)
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.spelling import spell
from models.streamvoiceanon.training.standardiser import Standardiser
from models.streamvoiceanon.training.task import Batch

SMALL = replace(MINI.content_encoder, depths=(1, 1), widths=(16, 32), heads=2, hidden=32, layers=1, bits=6)
TEACHER = 5


def make_task(**settings: float) -> ContentTask:
    encoder = ContentEncoder(SMALL, MINI.frames)
    initialise(encoder, seed=0)
    return ContentTask(encoder, MINI.frames, ContentTaskConfig(TEACHER, head_width=32, **settings))  # type: ignore[arg-type]


@pytest.fixture
def batch(waves: list[np.ndarray]) -> Batch:
    """Four utterances of two speakers; the teacher hears how loud each of five bands is."""
    items = []
    for number, wave in enumerate(waves[:4]):
        piece = wave[3_200 : 3_200 + 640 * (20 + number)]
        spectra = np.abs(np.fft.rfft(piece.reshape(-1, 640)))[:, 1:].reshape(-1, TEACHER, 64).mean(2)
        items.append({"wave": piece, "teacher": np.log(spectra + 0.1), "speaker": np.array(number // 2)})
    return collate_waves(items, 640)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def train(task: ContentTask, batch: Batch, steps: int) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(task.players["content"].parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        figures = task.losses("content", batch, generator())
        figures["total"].backward()
        optimizer.step()
    return figures


def test_codes_come_to_tell_the_teachers_frames_and_stay_in_use(batch: Batch) -> None:
    task = make_task()
    before = task.validate(batch)
    train(task, batch, 100)
    after = task.validate(batch)
    assert after["explained"] > 0.4 > before["explained"] + 0.3
    assert after["codes"] > 0.1  # of 64 codes, on 86 frames
    assert after["diversity"] < before["diversity"]


def test_training_quantizes_as_inference_does(batch: Batch) -> None:
    task = make_task()
    encoder = task.players["content"].encoder
    for row in range(len(batch["samples"])):
        samples = batch["samples"][row : row + 1, : int(batch["lengths"][row])]
        with torch.no_grad():
            codes, _ = encoder(samples, encoder.initial_state(1, samples.shape[1] // 640))
            corners = task._quantized(batch)[row, : codes.shape[1]]
        assert torch.equal(code_numbers(corners > 0), codes[0])


def test_what_lies_past_an_utterance_does_not_count(batch: Batch) -> None:
    task = make_task(speakers=2)
    task.losses("content", batch, generator())
    expected = {name: float(value) for name, value in task.validate(batch).items()}
    for i, length in enumerate(batch["lengths"].tolist()):
        batch["samples"][i, length:] = 0.3
        batch["teacher"][i, length // 640 :] = 1e4
    assert {name: float(value) for name, value in task.validate(batch).items()} == pytest.approx(expected, abs=1e-5)


def test_corners_lie_on_the_sphere_and_let_the_gradient_pass() -> None:
    points = torch.nn.functional.normalize(torch.randn(20, 9, generator=generator()), dim=-1).requires_grad_(True)
    corners = on_corner(points)
    assert torch.allclose(corners.norm(dim=-1), torch.ones(20))
    assert torch.equal(corners > 0, points > 0)
    corners.sum().backward()
    assert torch.equal(points.grad, torch.ones_like(points))


def test_entropies_have_their_known_values() -> None:
    words = torch.tensor([[1.0 if word >> bit & 1 else -1.0 for bit in range(5)] for word in range(32)]) / 5**0.5
    certainty, diversity = entropies(words, sharpness=200.0)
    assert float(certainty) == pytest.approx(0.0, abs=1e-4)
    assert float(diversity) == pytest.approx(math.log(32), abs=1e-4)
    certainty, diversity = entropies(torch.zeros(7, 5), sharpness=20.0)
    assert float(certainty) == pytest.approx(5 * math.log(2), abs=1e-4)
    _, one_code = entropies(words[3].expand(10, 5), sharpness=200.0)
    assert float(one_code) == pytest.approx(0.0, abs=1e-4)


def test_bits_that_say_the_same_do_not_deceive_the_entropy() -> None:
    """Each bit is one half of the time, yet there are two codes only."""
    points = torch.cat([torch.ones(8, 6), -torch.ones(8, 6)]) / 6**0.5
    assert float(entropies(points, sharpness=200.0)[1]) == pytest.approx(math.log(2), abs=1e-4)


def test_the_classifier_learns_who_speaks_while_the_encoder_stands_still(batch: Batch) -> None:
    task = make_task(speakers=2, forgetting_weight=1.0)
    player = task.players["content"]
    optimizer = torch.optim.AdamW([*player.listener.parameters(), *player.namer.parameters()], lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        figures = task.losses("content", batch, generator())
        figures["total"].backward()
        optimizer.step()
        losses.append(float(figures["speaker"]))
    assert losses[-1] < 0.5 * losses[0]


def test_the_gradient_that_reaches_the_encoder_is_reversed(batch: Batch) -> None:
    slopes = []
    for weight in (0.0, 1.0):
        task = make_task(speakers=2, forgetting_weight=weight)
        task.losses("content", batch, generator())["total"].backward()
        encoder = task.players["content"].encoder
        slopes.append(encoder.quantizer.residual_bsq.rvqs[0].project_in.weight.grad.clone())
    task = make_task(speakers=2, forgetting_weight=-1.0)  # not reversed: what would help the classifier
    task.losses("content", batch, generator())["total"].backward()
    helping = task.players["content"].encoder.quantizer.residual_bsq.rvqs[0].project_in.weight.grad - slopes[0]
    forgetting = slopes[1] - slopes[0]
    assert float(helping.abs().max()) > 0
    assert torch.allclose(forgetting, -helping, atol=1e-6)


def test_statistics_gathered_over_batches_standardise() -> None:
    standardiser = Standardiser(3)
    x = torch.randn(400, 3, generator=generator()) * torch.tensor([1.0, 5.0, 0.2]) + torch.tensor([0.0, 9.0, -3.0])
    for part in x.split(40):
        standardiser.gather(part)
    y = standardiser(x)
    assert torch.allclose(y.mean(0), torch.zeros(3), atol=0.15)
    assert torch.allclose(y.std(0), torch.ones(3), atol=0.15)


def test_pooling_leaves_padding_out() -> None:
    x = torch.tensor([[[1.0, 3.0, 99.0]]])
    assert torch.allclose(pooled(x, torch.tensor([[True, True, False]])), torch.tensor([[2.0, 1.0]]), atol=1e-4)


def test_an_export_is_the_encoder_alone() -> None:
    exported = make_task(speakers=2).export()
    assert exported.keys() == {"content_encoder"}
    network = build_networks(replace(MINI, content_encoder=SMALL))["content_encoder"].state_dict()
    assert {k: v.shape for k, v in exported["content_encoder"].items()} == {k: v.shape for k, v in network.items()}


def test_codes_learn_to_spell_where_the_text_is_known(waves: list[np.ndarray]) -> None:
    words = ("one", "two", "three", "")
    items = [
        {"wave": wave[3_200 : 3_200 + 640 * 20], "teacher": np.zeros((20, TEACHER)), "letters": np.array(spell(word))}
        for wave, word in zip(waves, words, strict=False)
    ]
    batch, task = collate_waves(items, 640), make_task(spelling_weight=1.0)
    before = task.validate(batch)
    train(task, batch, 300)
    after = task.validate(batch)
    assert after["spelling"] < before["spelling"] / 4
    assert after["misspelt"] <= 0.3  # of eleven letters
    assert after["total"] == pytest.approx(float(after["distillation"] + after["spelling"]))


def test_phonemes_are_told_by_cross_entropy_and_prosody_beside_them(batch: Batch) -> None:
    """Three phonemes, told by which of three bands is loudest, and two channels of prosody."""
    bands = batch["teacher"]
    said = torch.nn.functional.one_hot(bands[..., :3].argmax(-1), 3).float()
    batch["teacher"] = torch.cat([said, bands[..., 3:]], dim=-1)
    task = make_task(phones=3)
    before = task.validate(batch)
    train(task, batch, 100)
    after = task.validate(batch)
    assert after["agreement"] > 0.8 > before["agreement"]
    assert after["phones"] < 0.6 * before["phones"]
    assert after["explained"] > 0.4 > before["explained"]
    mask = task._mask(batch)
    codes = (task._quantized(batch) * mask.unsqueeze(2)).transpose(1, 2)
    told = task.players["content"].head(codes).transpose(1, 2)[mask]
    expected = -(batch["teacher"][mask][:, :3] * told[:, :3].log_softmax(-1)).sum(-1).mean().detach()
    assert after["phones"] == pytest.approx(float(expected), rel=1e-4)


def test_prosody_can_be_left_out(batch: Batch) -> None:
    batch["teacher"] = torch.cat([batch["teacher"][..., :3].softmax(-1), batch["teacher"][..., 3:]], dim=-1)
    figures = make_task(phones=3, prosody_weight=0.0).losses("content", batch, generator())
    assert figures["distillation"] == figures["phones"]


def test_features_tell_the_teacher_too_where_they_are_asked_and_are_figures_of_their_own(batch: Batch) -> None:
    task = make_task(feature_weight=0.5)
    assert "features.distillation" not in make_task().validate(batch)
    before = task.validate(batch)
    train(task, batch, 60)
    after = task.validate(batch)
    assert after["features.explained"] > before["features.explained"] + 0.3
    assert after["total"] == after["distillation"], "what is best is told by the codes alone"
    assert task.export()["content_encoder"].keys() == make_task().export()["content_encoder"].keys()


def test_a_lag_asks_for_what_was_said_before(batch: Batch) -> None:
    """A code is asked for the teacher's frame before its own, so for the last frame there is none."""
    plain, late = make_task(), make_task(lag=1)
    changed = {**batch, "teacher": batch["teacher"].clone()}
    changed["teacher"][:, -1] = 100.0  # of the longest utterance
    assert late.validate(changed)["distillation"] == late.validate(batch)["distillation"]
    assert plain.validate(changed)["distillation"] != plain.validate(batch)["distillation"]
