"""The HTTP part: files in and out, the page, health, metrics, and what a hostile upload gets."""

import asyncio
import http.client
import io
import itertools
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from live_server import LiveServer, live_server, speech_like, tone

from models.identity import Identity, IdentityStream
from serve.config import parse_config
from serve.files import FlacWriter, UnusableFile, decode, with_length
from serve.service import Service
from serve.tokens import new_token
from serve.web import build_web

TOKEN, DIGEST = new_token()
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
LIMITS = {"upload_seconds": 20.0, "upload_bytes": 2_000_000}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    tokens = [{"name": "tests", "sha256": DIGEST}]
    with live_server(tokens=tokens, limits=LIMITS, origins=["https://friend.example"]) as server:
        yield server


def call(
    server: LiveServer, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(server.http + path, body, AUTHORISED | (headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, dict(refusal.headers), refusal.read()


def encoded(wave: np.ndarray, rate: int = 16_000, kind: str = "FLAC", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, subtype, format=kind)
    return file.getvalue()


def outcomes(server: LiveServer, outcome: str) -> float:
    """How many files ended so."""
    return server.service.meters.registry.get_sample_value("voxveil_files_total", {"outcome": outcome}) or 0.0


@pytest.mark.parametrize(("kind", "rate"), [("WAV", 16_000), ("FLAC", 44_100), ("OGG", 48_000), ("WAV", 8_000)])
def test_a_file_comes_back_as_flac_of_the_same_length_and_rate(server: LiveServer, kind: str, rate: int) -> None:
    wave = tone(300, 2.3, rate)
    status, headers, body = call(server, "/v1/anonymize?voice=amber", encoded(wave, rate, kind))
    assert status == 200
    assert headers["content-type"] == "audio/flac"
    returned, returned_rate = soundfile.read(io.BytesIO(body), dtype="float32")
    assert returned_rate == rate
    assert len(returned) == soundfile.info(io.BytesIO(encoded(wave, rate, kind))).frames
    assert float(headers["voxveil-seconds"]) == pytest.approx(2.3, abs=0.01)


def test_a_file_becomes_what_the_pipeline_makes_of_it(server: LiveServer) -> None:
    wave = speech_like(3.0)
    body = call(server, "/v1/anonymize?seed=9", encoded(wave, subtype="PCM_16", kind="WAV"))[2]
    returned, _ = soundfile.read(io.BytesIO(body), dtype="float32")
    pcm, _ = soundfile.read(io.BytesIO(encoded(wave, subtype="PCM_16", kind="WAV")), dtype="float32")
    anonymizer = server.service.anonymizer
    expected = anonymizer.anonymize([torch.from_numpy(pcm)], [anonymizer.draw_voice(9)])[0].numpy()
    np.testing.assert_allclose(returned, expected, atol=1 / 32_768)


def test_channels_are_averaged(server: LiveServer) -> None:
    both = np.stack([tone(300, 1.0), -tone(300, 1.0)], axis=1)
    body = call(server, "/v1/anonymize", encoded(both, kind="WAV"))[2]
    assert np.abs(soundfile.read(io.BytesIO(body))[0]).max() < 1e-3


def bomb() -> bytes:
    """A FLAC file of a few kilobytes that unpacks to an hour of silence."""
    return encoded(np.zeros(3_600 * 16_000, np.int16))


def lying_flac() -> bytes:
    """A FLAC file of a minute whose header promises a second."""
    return with_length(encoded(np.zeros(60 * 16_000, np.int16)), 16_000)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "unusable"),
        (b"not a sound file", 422, "unusable"),
        (encoded(tone(300, 1.0), kind="WAV")[:30], 422, "unusable"),
        (encoded(np.zeros(0, np.float32), kind="WAV"), 422, "unusable"),
        (encoded(tone(300, 1.0), kind="AIFF"), 415, "bad_format"),
        (encoded(tone(300, 1.0), 4_000, kind="WAV"), 422, "unusable"),
        (encoded(np.zeros((100, 9), np.float32), kind="WAV"), 422, "unusable"),
        (encoded(np.full(100, np.nan, np.float32), kind="WAV", subtype="FLOAT"), 422, "unusable"),
        (b"\0" * 2_000_001, 413, "too_big"),
        (bomb(), 413, "too_big"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_a_reason(
    server: LiveServer, body: bytes, status: int, code: str
) -> None:
    answer = call(server, "/v1/anonymize", body)
    assert (answer[0], json.loads(answer[2])["code"]) == (status, code)


def test_a_header_that_lies_about_its_length_does_not_help() -> None:
    with pytest.raises(UnusableFile) as refused:
        decode(with_length(encoded(np.zeros(60 * 16_000, np.int16)), 0), 20.0, 20.0)
    assert refused.value.status in (413, 422)
    assert len(decode(lying_flac(), 20.0, 20.0).wave) <= 20 * 16_000


def test_a_high_rate_does_not_get_more_samples_in() -> None:
    most = 2 * 48_000
    assert len(decode(encoded(np.zeros(most, np.int16), 96_000), 2.0, 20.0).wave) == most
    assert len(decode(encoded(np.zeros(most, np.int16), 48_000), 2.0, 20.0).wave) == most
    with pytest.raises(UnusableFile, match="more than 1 s") as refused:
        decode(encoded(np.zeros(most + 1, np.int16), 96_000), 2.0, 20.0)
    assert refused.value.status == 413


def test_decoding_has_a_time_limit() -> None:
    ticks = iter(range(0, 1_000, 10))
    with pytest.raises(UnusableFile) as refused:
        decode(encoded(np.zeros(15 * 16_000, np.int16)), 20.0, 5.0, clock=lambda: next(ticks))
    assert "decode" in str(refused.value)


@settings(max_examples=150)
@given(st.data())
def test_no_damaged_file_breaks_the_decoder(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["WAV", "FLAC", "OGG"]))
    whole = bytearray(encoded(tone(300, 0.3), kind=kind))
    for _ in range(data.draw(st.integers(1, 12))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(0, len(whole))) :]
    recording, status = None, 0
    try:
        recording = decode(bytes(whole), 20.0, 20.0)
    except UnusableFile as fault:
        status = fault.status
    if recording is None:
        assert status in (413, 415, 422)
    else:
        assert np.isfinite(recording.wave).all()
        assert 0 < len(recording.wave) <= 20.0 * recording.sample_rate


def test_who_has_no_token_gets_401(server: LiveServer) -> None:
    status, headers, body = call(server, "/v1/anonymize", b"x", {"Authorization": "Bearer wrong"})
    assert (status, json.loads(body)["code"], headers["www-authenticate"]) == (401, "unauthorised", "Bearer")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("voice=nobody", "voice"),
        ("voice=amber&seed=1", "seed"),
        ("seed=-1", "seed"),
        ("seed=amber", "seed"),
        (f"seed={2**64}", "seed"),
        ("voice=" + "a" * 65, "voice"),
    ],
)
def test_a_voice_that_is_not_there_gets_400(server: LiveServer, query: str, named: str) -> None:
    status, _, body = call(server, f"/v1/anonymize?{query}", encoded(tone(300, 0.1)))
    refusal = json.loads(body)
    assert (status, refusal.pop("code")) == (400, "bad_start")
    assert named in refusal.pop("detail")
    assert refusal == {}


def test_a_foreign_page_may_not_send_files(server: LiveServer) -> None:
    assert call(server, "/v1/anonymize", b"x", {"Origin": "https://evil.example"})[0] == 403
    friend = call(server, "/v1/anonymize", encoded(tone(300, 0.1)), {"Origin": "https://friend.example"})
    assert friend[1]["access-control-allow-origin"] == "https://friend.example"


def preflight(server: LiveServer, origin: str) -> dict[str, str]:
    """What a browser is told that asks whether a page of `origin` may send files."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    request = urllib.request.Request(server.http + "/v1/anonymize", headers=asked, method="OPTIONS")
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return dict(answer.headers)
    except urllib.error.HTTPError as refusal:
        return dict(refusal.headers)


def test_a_browser_that_asks_beforehand_is_told_who_may(server: LiveServer) -> None:
    friend = preflight(server, "https://friend.example")
    assert friend["access-control-allow-origin"] == "https://friend.example"
    assert "authorization" in friend["access-control-allow-headers"].lower()
    assert "access-control-allow-origin" not in preflight(server, "https://evil.example")


class Halting(Identity):
    """Hands waves back, and stops before the third second until it is told to go on, or to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()
        self.failing = False

    def open_stream(self, voice: None, seed: int = 0) -> IdentityStream:
        stream, pushes, model = super().open_stream(voice), itertools.count(), self
        push = stream.push

        def halting(samples: torch.Tensor) -> torch.Tensor:
            if next(pushes) == 2:
                assert model.told.wait(60)
                if model.failing:
                    raise ValueError("samples 0.123 0.456")
            return push(samples)

        stream.push = halting  # type: ignore[method-assign]
        return stream


def test_the_answer_comes_while_the_file_is_worked_off() -> None:
    halting = Halting()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 16_000).astype(np.float32)  # that FLAC cannot shrink
    with live_server(stand_in=halting) as server:
        request = urllib.request.Request(server.http + "/v1/anonymize", encoded(noise, kind="WAV"))
        with urllib.request.urlopen(request, timeout=300) as answer:
            assert answer.headers["transfer-encoding"] == "chunked"
            assert float(answer.headers["voxveil-seconds"]) == 5.0
            early = answer.read1(1 << 20)
            assert early, "nothing came while the third second was still to be made"
            halting.told.set()
            whole = early + answer.read()
    assert len(soundfile.read(io.BytesIO(whole))[0]) == 5 * 16_000


def test_who_does_not_read_the_answer_loses_the_place() -> None:
    small = 1 << 16  # bytes that a socket may hold; the answer has thirty times as many
    noise = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, 60 * 16_000, np.int16)  # that FLAC cannot shrink
    limits = {"patience": 0.5, "uploads_at_once": 1, "upload_seconds": 61.0}
    with live_server(anonymizer="identity", limits=limits) as server:
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, small)  # and of those that it will accept
        address = server.listener.getsockname()
        deaf = http.client.HTTPConnection(*address, timeout=300)
        deaf.sock = socket.socket()
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
        deaf.sock.connect(address)
        deaf.request("POST", "/v1/anonymize", encoded(noise, kind="WAV"))
        deadline = time.monotonic() + 300
        while not outcomes(server, "left") or server.service.holders or server.service.files_running:
            assert time.monotonic() < deadline, "the place was never given back"
            time.sleep(0.1)
        assert call(server, "/v1/anonymize", encoded(tone(300, 0.1)))[0] == 200
        assert (outcomes(server, "left"), outcomes(server, "done")) == (1, 1)
        deaf.close()


def test_who_hangs_up_in_the_middle_of_a_file_gives_the_place_back() -> None:
    service = Service(parse_config({"anonymizer": "identity"}))
    web = build_web(service)
    held: list[int] = []
    arriving = iter([{"type": "http.request", "body": b"RIFF", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        held.append(service.files_running)
        return next(arriving)

    async def send(message: Any) -> None:
        pass

    request = {"type": "http", "method": "POST", "path": "/v1/anonymize", "query_string": b"", "headers": []}
    asyncio.run(web(request, receive, send))  # to the server it would be an error of the application
    assert held == [1, 1]
    assert service.files_running == 0
    assert not service.holders
    assert service.meters.registry.get_sample_value("voxveil_files_total", {"outcome": "left"}) == 1.0
    service.stop()


def test_a_model_that_fails_cuts_the_answer_and_quotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    halting = Halting()
    halting.failing = True
    halting.told.set()
    with live_server(stand_in=halting) as server:
        request = urllib.request.Request(server.http + "/v1/anonymize", encoded(tone(300, 5.0), kind="WAV"))
        with pytest.raises(http.client.IncompleteRead), urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()
        assert call(server, "/healthz")[2] == b"ok"
        assert not server.service.holders
    assert "ValueError" in caplog.text
    assert "0.123" not in caplog.text


def test_no_sound_is_written_to_a_disk(server: LiveServer, tmp_path: Path) -> None:
    written: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            path, mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not str(path).startswith(("/dev/", "/proc/")):
                written.append(f"{path} {mode}")

    sys.addaudithook(watch)  # for good: Python has no way to take one off again
    (tmp_path / "seen").write_text("")
    assert written
    written.clear()
    call(server, "/v1/anonymize", encoded(tone(300, 2.0)))
    from serve.client import stream_wave

    asyncio.run(stream_wave(speech_like(1.0), 16_000, server.stream, TOKEN))
    during, watching = list(written), False
    assert during == []


def test_a_third_file_at_once_waits_its_turn(server: LiveServer) -> None:
    server.service.files_running = 2
    try:
        status, headers, _ = call(server, "/v1/anonymize", encoded(tone(300, 0.1)))
    finally:
        server.service.files_running = 0
    assert (status, headers["retry-after"]) == (503, "3")
    assert not server.service.holders


def test_the_page_is_whole_and_speaks_to_nobody_else(server: LiveServer) -> None:
    import re

    status, headers, body = call(server, "/")
    page = body.decode()
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', page)
    assert names
    for name in [*names, "page/call.js", "page/drawing.js", "page/capture.js", "page/playback.js"]:
        status, _, content = call(server, "/" + name)
        assert status == 200, name
        assert b"http://" not in content
        assert b"https://" not in content
    for control in re.findall(r"<(?:input|select)[^>]* id=\"([^\"]+)\"", page):
        assert f'for="{control}"' in page, f"{control} has no label"
    used = set(re.findall(r'element\("([^"]+)"\)', (call(server, "/page/app.js")[2]).decode()))
    assert used <= set(re.findall(r'id="([^"]+)"', page)), "the script looks for what the page does not have"


@pytest.mark.parametrize("path", ["/page/../config.py", "/page/%2e%2e/config.py", "/page/x.js", "/serve/app.py"])
def test_nothing_but_the_page_is_handed_out(server: LiveServer, path: str) -> None:
    assert call(server, path)[0] == 404


def test_health_about_and_openapi_answer(server: LiveServer) -> None:
    assert call(server, "/healthz")[2] == b"ok"
    about = json.loads(call(server, "/v1/about")[2])
    assert about["token_required"] is True
    assert "amber" in about["voices"]
    document = json.loads(call(server, "/openapi.json")[2])
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert set(document["paths"]) == {"/v1/anonymize", "/v1/about", "/healthz", "/metrics"}
    assert "schemas" not in document["components"], "an error of FastAPI's own shape is documented"
    answers = document["paths"]["/v1/anonymize"]["post"]["responses"]
    shapes = [answers[status]["content"]["application/json"]["schema"] for status in answers if status != "200"]
    assert {tuple(sorted(shape["properties"])) for shape in shapes} == {("code", "detail")}


def test_metrics_count_files(server: LiveServer) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def files() -> float:
        text = call(server, "/metrics")[2].decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["voxveil_slots"].samples[0].labels == {"replica": "local"}
        done = [sample.value for sample in families["voxveil_files"].samples if sample.labels.get("outcome") == "done"]
        return max(done, default=0.0)

    before = files()
    call(server, "/v1/anonymize", encoded(tone(300, 0.1)))
    assert files() == before + 1


def test_a_draining_replica_says_so(server: LiveServer) -> None:
    server.service.engine.draining = True
    try:
        assert call(server, "/healthz")[0] == 503
    finally:
        server.service.engine.draining = False


def test_the_flac_writer_promises_the_length_that_it_keeps() -> None:
    writer = FlacWriter(16_000, 40_000)
    pieces = [writer.write(tone(300, 1.25)), writer.write(tone(300, 1.25)), writer.finish()]
    with soundfile.SoundFile(io.BytesIO(b"".join(pieces))) as sound:
        assert sound.frames == 40_000
        assert len(sound.read()) == 40_000
    assert pieces[0], "nothing came before the end"


def test_schemathesis_finds_no_fault(server: LiveServer) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (the dev extra has it)")
    for kind in ("audio/wav", "audio/flac", "audio/ogg"):
        schemathesis.openapi.media_type(kind, st.binary(max_size=2_000))
    schema = schemathesis.openapi.from_url(server.http + "/openapi.json")
    attacked = 0

    def attack(operation: Any, mode: Any) -> None:
        documented = {int(status) for status in operation.definition.raw["responses"]} | {405}

        @settings(max_examples=20)
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            answer = case.call(base_url=server.http, headers=AUTHORISED, timeout=300)
            assert answer.status_code in documented, f"{case.method} {case.path}: {answer.status_code}"
            assert answer.status_code < 500, f"{case.method} {case.path}: {answer.status_code}"

        send()

    for operation in schema.get_all_operations():
        for mode in schemathesis.GenerationMode:
            try:
                attack(operation.ok(), mode)
                attacked += 1
            except Unsatisfiable:  # an operation without parameters cannot be called wrongly
                assert mode == schemathesis.GenerationMode.NEGATIVE
    assert attacked > 4
    assert call(server, "/healthz")[2] == b"ok"
