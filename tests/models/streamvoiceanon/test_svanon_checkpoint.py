"""What a checkpoint folder may hold, and what is said about one that cannot be used."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from models.streamvoiceanon import CheckpointError, StreamVoiceAnon, checkpoint, convert
from models.streamvoiceanon.checkpoint import contract, load_networks, read_published
from models.streamvoiceanon.compact import compacted, expanded
from models.streamvoiceanon.config import Config, build_networks


@pytest.fixture
def folder(tmp_path: Path, tiny_states) -> Path:
    """The five files as they are published: the content encoder under `net`, keys with `module.`, older style names."""
    for network, entry in contract().items():
        state = dict(tiny_states[network])
        if network == "content_encoder":
            state = {"net": {f"module.{key}": value for key, value in state.items()}}
        elif network == "style_encoder":
            state = {f"xvector.{k}" if k.startswith("dense.") else k: v for k, v in state.items()}
        elif network == "codec":
            state = {**state, **weight_normed(state.pop("head.conv_pre.conv.weight"))}
        torch.save(state, tmp_path / entry["file"])
    return tmp_path


def weight_normed(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same weight as magnitude and direction, the direction of any length."""
    magnitude = weight.norm(dim=(1, 2), keepdim=True)
    prefix = "head.conv_pre.conv.parametrizations.weight"
    return {f"{prefix}.original0": magnitude, f"{prefix}.original1": 3.0 * weight}


def load_tiny(folder: Path, config: Config) -> StreamVoiceAnon:
    return StreamVoiceAnon.from_state_dicts(read_published(folder), config)


def test_a_published_folder_loads(folder: Path, tiny_model: StreamVoiceAnon, prompt_wave) -> None:
    model = load_tiny(folder, tiny_model.config)
    voice, expected = model.make_voice(prompt_wave), tiny_model.make_voice(prompt_wave)
    assert torch.equal(voice.content, expected.content)
    assert torch.equal(voice.acoustic, expected.acoustic)
    assert torch.equal(voice.style, expected.style)
    codes = torch.arange(80).view(8, 10)
    assert torch.allclose(model.decode_acoustic(codes), tiny_model.decode_acoustic(codes), atol=1e-5)


def test_files_may_lie_in_folders_below(folder: Path, tiny_model: StreamVoiceAnon) -> None:
    (folder / "speaker").mkdir()
    for network in ("style_encoder", "timbre_encoder"):
        name = contract()[network]["file"]
        (folder / name).rename(folder / "speaker" / name)
    load_tiny(folder, tiny_model.config)


def test_a_converted_checkpoint_is_two_files_and_computes_the_same(folder, tmp_path, tiny_model, prompt_wave) -> None:
    target = tmp_path / "converted"
    convert(folder, target, tiny_model.config)
    assert sorted(path.name for path in target.iterdir()) == ["streamvoiceanon.json", "streamvoiceanon.safetensors"]
    model = StreamVoiceAnon.from_pretrained(target, precision="float32")
    assert model.config == tiny_model.config
    voice = model.make_voice(prompt_wave)
    assert torch.allclose(voice.style, tiny_model.make_voice(prompt_wave).style, atol=1e-6)
    content = torch.arange(6)
    assert torch.equal(model.generate(content, voice, greedy=True), tiny_model.generate(content, voice, greedy=True))


def test_a_hub_repository_is_fetched_and_read(folder, tmp_path, tiny_model, monkeypatch) -> None:
    convert(folder, tmp_path / "converted", tiny_model.config)
    asked = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, "dual_ar_delay_0_8.pth" in allow_patterns))
        return str(tmp_path / "converted")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    StreamVoiceAnon.from_pretrained("Plachta/StreamVoiceAnon@v1")
    assert asked == [("Plachta/StreamVoiceAnon", "v1", True)]


@pytest.mark.parametrize("source", ["no/such/folder", "nothing", "../up", "/absent/folder"])
def test_what_is_neither_folder_nor_repository_is_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match="nor is it the name of a Hugging Face repository"):
        StreamVoiceAnon.from_pretrained(source)


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        StreamVoiceAnon.from_pretrained(tmp_path)
    assert all(entry["file"] in str(error.value) for entry in contract().values())


def test_a_pickle_with_code_in_it_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (witness,))

    (folder / "dual_ar_delay_0_8.pth").write_bytes(pickle.dumps({"embedding.weight": Payload()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"dual_ar_delay_0_8.pth .* is refused"):
        StreamVoiceAnon.from_pretrained(folder)
    archive = io.BytesIO()
    torch.save({"embedding.weight": torch.zeros(2)}, archive)
    with zipfile.ZipFile(archive) as plain, zipfile.ZipFile(folder / "dual_ar_delay_0_8.pth", "w") as hostile:
        for item in plain.namelist():
            hostile.writestr(
                item, pickle.dumps(Payload(), protocol=2) if item.endswith("data.pkl") else plain.read(item)
            )
    with pytest.raises(CheckpointError, match="is refused"):
        StreamVoiceAnon.from_pretrained(folder)
    assert not witness.exists()


@pytest.mark.parametrize("keep", [0, 10, 5_000])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "spark_speaker_encoder.pth"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"spark_speaker_encoder.pth \(timbre_encoder\)"):
        StreamVoiceAnon.from_pretrained(folder)


def test_a_truncated_converted_file_is_refused(folder: Path, tmp_path: Path, tiny_model: StreamVoiceAnon) -> None:
    convert(folder, tmp_path / "converted", tiny_model.config)
    weights = tmp_path / "converted" / "streamvoiceanon.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        StreamVoiceAnon.from_pretrained(tmp_path / "converted")


def test_everything_that_does_not_fit_is_listed_in_one_message(tiny_states, tiny_model: StreamVoiceAnon) -> None:
    states = {network: dict(state) for network, state in tiny_states.items()}
    del states["acoustic_lm"]["style_in.bias"]
    states["codec"]["head.conv_post.conv.bias"] = torch.zeros(7)
    states["timbre_encoder"]["stowaway"] = torch.zeros(1)
    states["style_encoder"]["dense.linear.weight"] = states["style_encoder"]["dense.linear.weight"].long()
    states["extra"] = {}
    with pytest.raises(CheckpointError) as error:
        StreamVoiceAnon.from_state_dicts(states, tiny_model.config)
    message = str(error.value)
    assert "acoustic_lm: style_in.bias is missing" in message
    assert "codec: head.conv_post.conv.bias has shape [7], not [1]" in message
    assert "timbre_encoder: stowaway is unknown" in message
    assert "style_encoder: dense.linear.weight holds torch.int64" in message
    assert "extra: no such network" in message
    assert message.startswith("5 tensors")


@pytest.mark.parametrize(
    ("magnitude", "direction"), [((7, 1, 1), (4, 3, 2)), ((1, 1, 1), (4, 3, 2)), ((4, 1, 1), (4, 3))]
)
def test_weight_norm_that_does_not_belong_together_is_listed(magnitude, direction, tiny_states, tiny_model) -> None:
    states = {network: dict(state) for network, state in tiny_states.items()}
    key = "head.conv_pre.conv.parametrizations.weight.original"
    states["codec"] |= {f"{key}0": torch.ones(magnitude), f"{key}1": torch.ones(direction)}
    with pytest.raises(CheckpointError, match=r"1 tensors do not fit the networks:\n- codec: .* for a direction of"):
        StreamVoiceAnon.from_state_dicts(states, tiny_model.config)


def test_a_missing_network_is_named(tiny_states, tiny_model: StreamVoiceAnon) -> None:
    states = {network: state for network, state in tiny_states.items() if network != "codec"}
    with pytest.raises(CheckpointError, match="codec: the whole network is missing"):
        StreamVoiceAnon.from_state_dicts(states, tiny_model.config)


def test_the_full_size_networks_need_only_what_the_contract_has_and_no_training_part() -> None:
    """Names and shapes agree with the published files, and the parts that training used are not built."""
    for name, network in build_networks(Config()).items():
        tensors = contract()[name]["tensors"]
        for key, value in network.state_dict().items():
            if key in tensors:
                assert list(value.shape) == tensors[key][0], key
            else:
                assert key.replace(".weight", ".parametrizations.weight.original1") in tensors, key
        assert not any(
            key.startswith(("quantizer.post_module", "speaker_encoder.pool")) for key in network.state_dict()
        )
    content = build_networks(Config())["content_encoder"].state_dict()
    assert not any(key.startswith("head.") for key in content)


def test_half_precision_files_are_read_as_float32(tiny_states, tiny_model: StreamVoiceAnon) -> None:
    networks = build_networks(tiny_model.config)
    halves = {
        name: {key: value.half() if value.dtype == torch.float32 else value for key, value in state.items()}
        for name, state in tiny_states.items()
    }
    load_networks(networks, halves)
    assert networks["acoustic_lm"].state_dict()["style_in.weight"].dtype == torch.float32


def test_the_contract_lists_five_networks() -> None:
    assert {name: len(entry["tensors"]) for name, entry in checkpoint.contract().items()} == {
        "acoustic_lm": 126,
        "content_encoder": 485,
        "codec": 547,
        "style_encoder": 937,
        "timbre_encoder": 247,
    }


def test_a_compact_model_takes_a_byte_a_weight_and_is_off_by_half_a_step_at_most() -> None:
    weights = torch.randn(64, 80, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 64).unsqueeze(1)
    tensors = {"wide": weights, "table": weights, "bias": torch.randn(64), "count": torch.tensor(3)}
    kept = compacted(tensors, {"wide", "bias"})
    assert kept["wide"].dtype == torch.int8
    restored = expanded(kept)
    assert restored.keys() == tensors.keys()
    step = weights.abs().amax(1, keepdim=True) / 127
    assert ((restored["wide"] - weights).abs() <= step / 2 + 1e-6).all()
    assert all(torch.equal(restored[name], tensors[name]) for name in ("table", "bias", "count"))


@pytest.mark.parametrize("scale", [torch.ones(63), torch.ones(64, 80), torch.ones(())])
def test_a_scale_that_fits_no_matrix_is_refused(scale: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="is a scale of"):
        expanded({"wide": torch.zeros(64, 80, dtype=torch.int8), "wide.row_scale": scale})
    with pytest.raises(ValueError, match="for no matrix"):
        expanded({"wide.row_scale": torch.ones(64)})


@pytest.mark.parametrize("text", ["[]", "7", "null", '{"format": "another"}'])
def test_a_configuration_of_another_format_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / checkpoint.CONFIG_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="is of format"):
        checkpoint.read_document(tmp_path)
