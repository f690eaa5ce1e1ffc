"""The configuration: checked once, refused with the field's name; and the commands that read it."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from pipelines.serve import serve
from pipelines.stream import stream
from serve.config import ConfigError, ServeConfig, parse_config, read_config
from serve.tokens import hash_token

ROOT = Path(__file__).parents[2]


def command(function: object, *arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(function)  # type: ignore[arg-type]
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"slotz": 3}, "slotz"),
        ({"slots": 0}, "slots"),
        ({"tokens": [{"name": "a", "sha256": "short"}]}, "tokens.0.sha256"),
        ({"tokens": [{"name": "a", "sha256": "0" * 64}] * 2}, "tokens"),
        ({"replicas": {"minimum": 3, "maximum": 2}}, "replicas"),
        ({"limits": {"message_bytes": -1}}, "limits.message_bytes"),
    ],
)
def test_a_wrong_field_is_named(content: object, place: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_config(content, "serve.yaml")
    assert str(wrong.value).startswith(f"serve.yaml: {place}: ")


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("")
    assert parse_config(read_config(tmp_path / "serve.yaml")) == ServeConfig()


def test_calls_keep_as_much_prosody_as_is_asked_for(tmp_path: Path) -> None:
    for prosody in ("full", "reduced", "auto"):
        (tmp_path / "serve.yaml").write_text(f"prosody: {prosody}")
        spec = parse_config(read_config(tmp_path / "serve.yaml")).anonymizer_spec
        assert (spec.prosody, spec.context) == (prosody, "causal")
    with pytest.raises(ConfigError, match="reduced prosody is for streamvoiceanon"):
        parse_config({"anonymizer": "mcadams", "prosody": "reduced"})


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("- slots")
    with pytest.raises(ConfigError, match="mapping"):
        read_config(tmp_path / "serve.yaml")


def test_paths_in_a_file_start_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "tokens.yaml").write_text(f"- {{name: desk, sha256: {'e' * 64}}}")
    (tmp_path / "serve.yaml").write_text(
        "anonymizer: streamvoiceanon\nmodel: weights\nvoices: hub/elsewhere\ntokens_file: tokens.yaml\n"
    )
    settings = parse_config(read_config(tmp_path / "serve.yaml"))
    assert settings.model == str((tmp_path / "weights").resolve())
    assert settings.voices == "hub/elsewhere"
    assert [token.name for token in settings.tokens] == ["desk"]


def test_a_model_without_a_bank_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"serve\.yaml: the model weights needs a voice bank of its own"):
        parse_config({"anonymizer": "streamvoiceanon", "model": "weights"}, "serve.yaml")


def test_the_cluster_file_is_one_that_serve_takes_and_builds_the_application(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(content).applications
    module, _, name = application.import_path.partition(":")
    build = getattr(importlib.import_module(module), name)

    with pytest.raises(ConfigError, match=application.args["tokens_file"]):  # as shipped: nothing without its tokens
        build(application.args)

    (tmp_path / "tokens.yaml").write_text(f"- {{name: call-centre, sha256: {'e' * 64}, sessions: 200}}\n")
    replica = build(application.args | {"tokens_file": str(tmp_path / "tokens.yaml")})._bound_deployment
    assert replica.name == "Replica"
    assert replica._deployment_config.autoscaling_config.max_replicas == application.args["replicas"]["maximum"] > 1
    config = parse_config(replica.init_args[0])
    assert [token.name for token in config.tokens] == ["call-centre"]
    assert not config.open


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        (None, "No such file"),
        ("", "must be a list of tokens"),
        ("[]", "must be a list of tokens"),
        ("name: a", "must be a list of tokens"),
        ("- {name: a, sha256: short}", "tokens.0.sha256"),
    ],
)
def test_a_file_without_good_tokens_starts_nothing(tmp_path: Path, listed: str | None, complaint: str) -> None:
    file = tmp_path / "tokens.yaml"
    if listed is not None:
        file.write_text(listed)
    with pytest.raises(ConfigError, match=complaint) as wrong:
        parse_config({"tokens_file": str(file)})
    assert str(file) in str(wrong.value)


def test_a_new_token_comes_with_its_hash() -> None:
    code, output = command(serve, "--new-token")
    words = output.split()
    assert code == 0
    assert hash_token(words[words.index("token") + 1]) == words[words.index("sha256") + 1]


def test_a_server_that_anybody_reaches_needs_tokens() -> None:
    code, output = command(serve, "--host", "0.0.0.0")
    assert code == 2
    assert "--new-token" in output


def test_an_unknown_anonymizer_is_refused_before_anything_starts() -> None:
    assert command(serve, "--anonymizer", "nonesuch")[0] == 2


def test_a_client_that_finds_no_server_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile
    from live_server import tone

    import serve.client

    monkeypatch.setattr(serve.client, "LONGEST_PAUSE", 0.01)
    soundfile.write(tmp_path / "in.wav", tone(300, 0.1), 16_000)
    url = "ws://127.0.0.1:9/v1/stream"
    code, output = command(stream, str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), "--url", url)
    assert code == 1
    assert "connecting again" in output
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(("target", "reason"), [("out.mp3", ".wav or .flac"), ("nowhere/out.wav", "no folder")])
def test_a_target_that_cannot_be_written_is_said_before_the_call(tmp_path: Path, target: str, reason: str) -> None:
    import soundfile
    from live_server import tone

    soundfile.write(tmp_path / "in.wav", tone(300, 0.1), 16_000)
    code, output = command(stream, str(tmp_path / "in.wav"), str(tmp_path / target), "--url", "ws://127.0.0.1:9")
    assert code == 2
    assert reason in output
    assert len(output.splitlines()) == 1, "not one attempt to connect"


def test_the_client_writes_what_came_back_and_prints_the_latency(tmp_path: Path) -> None:
    import soundfile
    from live_server import live_server, tone

    soundfile.write(tmp_path / "in.wav", tone(300, 1.0), 16_000)
    with live_server() as server:
        code, output = command(
            stream, str(tmp_path / "in.wav"), str(tmp_path / "out.wav"), "--url", server.stream, "--realtime"
        )
    assert code == 0
    assert "p99" in output
    assert soundfile.info(tmp_path / "out.wav").frames == 16_000


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({}, 4),
        ({"replicas": {"gpus": 1}}, 32),
        ({"anonymizer": "mcadams"}, 32),
        ({"slots": 7}, 7),
    ],
)
def test_a_replica_holds_what_its_anonymizer_keeps_up_with(fields: dict[str, Any], calls: int) -> None:
    settings = parse_config(fields)
    assert settings.capacity == calls
    assert settings.engine_settings().slots == calls
