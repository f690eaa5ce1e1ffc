"""`voxveil serve` as a user runs it, with two replicas on Ray Serve: killed, counted, deployed anew, and stopped."""

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import speech_like
from serve_command import Command

from serve.client import Connection, Refused, Report, stream_wave
from serve.tokens import new_token

pytestmark = pytest.mark.slow

TOKEN, DIGEST = new_token()
CONFIG = {
    "anonymizer": "mcadams",
    "slots": 8,
    "replicas": {"minimum": 2, "maximum": 2},
    "tokens": [{"name": "tests", "sha256": DIGEST, "sessions": 6}],
    "drain_seconds": 0.5,
}
WINDOW = 2.0  # seconds of audio that may be on their way, the configuration's default


async def wait_for_calls(command: Command, calls: list[asyncio.Task[Any]]) -> None:
    """Return when all of `calls` are counted and each of two replicas has some; the figures are a second old."""
    while True:
        held = await asyncio.to_thread(command.sessions)
        if len(held) == 2 and all(held.values()) and sum(held.values()) == len(calls):
            return
        assert not any(call.done() for call in calls), f"a call was over before all were held by two replicas: {held}"
        await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    command = Command(CONFIG, folder=tmp_path_factory.mktemp("serve"))
    yield command
    command.stop()


def test_a_killed_replica_costs_its_calls_a_reconnection_and_the_others_nothing(command: Command) -> None:
    wave = speech_like(9.0)
    said: list[str] = []
    outages: list[float] = []

    async def call() -> Report:
        known: list[float] = []

        def say(line: str) -> None:
            said.append(line)
            if not known:
                known.append(time.monotonic() - killed_at)
                outages.append(known[0])

        voice = {"kind": "seed", "seed": 3}
        return await stream_wave(wave, 16_000, command.url, TOKEN, voice, realtime=True, say=say)

    async def scene() -> list[Report]:
        nonlocal killed_at
        calls = [asyncio.create_task(call()) for _ in range(6)]
        await wait_for_calls(command, calls)
        killed_at = time.monotonic()
        os.kill(command.replicas()[0], signal.SIGKILL)
        return await asyncio.gather(*calls)

    killed_at = 0.0
    reports = asyncio.run(asyncio.wait_for(scene(), 300))
    interrupted = [report for report in reports if report.attempts > 1]
    untouched = [report for report in reports if report.attempts == 1]
    assert interrupted
    assert untouched
    assert len(outages) == len(interrupted)
    assert min(outages) >= 0
    assert max(outages) < 2.0, f"the last client knew after {max(outages):.1f} s"
    assert all("connection broke" in line or "full" in line or "HTTP" in line for line in said), said
    for report in reports:
        assert len(report.wave) == len(wave)
        assert np.sqrt(np.square(report.wave[-32_000:]).mean()) > 0.01, "the call did not go on after the kill"


def test_a_token_is_counted_over_all_replicas(command: Command) -> None:
    async def scene() -> None:
        async with contextlib.AsyncExitStack() as calls:
            for _ in range(6):
                await calls.enter_async_context(Connection(command.url, 16_000, TOKEN))
            with pytest.raises(Refused) as refused:
                await calls.enter_async_context(Connection(command.url, 16_000, TOKEN))
            assert refused.value.code == "too_many"

    def settled() -> bool:  # the killed replica is replaced, and forgotten
        with contextlib.suppress(OSError):
            held = command.sessions()
            return len(held) == 2 and not any(held.values())
        return False

    deadline = time.monotonic() + 120
    while not settled():
        assert time.monotonic() < deadline, "what the killed replica held did not lapse"
        time.sleep(0.5)
    asyncio.run(asyncio.wait_for(scene(), 60))


def memory(command: Command) -> dict[int, int]:
    """Bytes that each replica and each HAProxy holds, by process; the kernel's sockets are not among them."""
    held = {}
    for process in [*command.replicas(), *command.descendants("/haproxy\0")]:
        with contextlib.suppress(OSError):
            held[process] = resource.getpagesize() * int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return held


def test_a_flood_is_held_back_at_its_source(command: Command) -> None:
    async def scene() -> tuple[int, dict[int, int], dict[int, int]]:
        async with Connection(command.url, 16_000, TOKEN) as call:
            sent = 0
            second = np.zeros(16_000, np.float32)
            for _ in range(2):  # what the first audio loads is no flood
                await call.send(second)
                await call.receive()
            before = memory(command)
            try:
                async with asyncio.timeout(4.0):
                    while True:
                        await call.send(second)
                        sent += 1
            except TimeoutError:
                return sent, before, memory(command)

    # Whatever the kernel's sockets may hold, the service takes no more than its window. Without back-pressure 100 MB
    # and more go through in that time, and three times as many bytes wait in the replica.
    sent, before, after = asyncio.run(asyncio.wait_for(scene(), 60))
    grown = {process: after[process] - before[process] for process in before.keys() & after.keys()}
    assert len(grown) >= 3, "two replicas and a HAProxy"
    assert max(grown.values()) < 24 << 20, f"{sent} seconds of audio were taken; bytes that were added: {grown}"


async def talk_until_told(command: Command, heard: asyncio.Event) -> tuple[str, int, int]:
    """Talk until the server ends the call; return its code and the samples sent and received.

    Sets `heard` when a second has come back.
    """
    chunk = speech_like(0.02)
    async with Connection(command.url, 16_000, TOKEN) as call:
        sent = received = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await call.send(chunk)
                sent += len(chunk)
                await asyncio.sleep(0.02)

        sender = asyncio.create_task(send())
        try:
            while True:
                received += len(await call.receive())
                if received > 16_000:
                    heard.set()
        except Refused as farewell:
            return farewell.code, sent, received
        finally:
            sender.cancel()


def assert_ended_in_good_order(ends: list[tuple[str, int, int]]) -> None:
    for code, sent, received in ends:
        assert code == "shutting_down"
        assert sent - received <= WINDOW * 16_000, "more of the call was lost than may be on its way"


# What `serve deploy` does with a changed file: another driver of the same Ray gives Serve the application anew.
REDEPLOY = """
import json, sys
import ray
from ray import serve
from serve.app import build
ray.init(log_to_driver=False)
serve.run(build(json.loads(sys.argv[1])), name="voxveil", route_prefix="/")
"""


def test_a_redeployment_ends_the_calls_of_each_replica_in_good_order_and_takes_them_up_again(command: Command) -> None:
    config = CONFIG | {"slots": 9}

    async def scene() -> list[tuple[str, int, int]]:
        heard = [asyncio.Event() for _ in range(4)]
        calls = [asyncio.create_task(talk_until_told(command, event)) for event in heard]
        for event in heard:
            await event.wait()
        await wait_for_calls(command, calls)
        deploying = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            REDEPLOY,
            json.dumps(config),
            env=command.ray_environment(),
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaint = await deploying.communicate()
        assert deploying.returncode == 0, complaint.decode()
        ends = await asyncio.gather(*calls)
        report = await stream_wave(speech_like(1.0), 16_000, command.url, TOKEN)
        assert len(report.wave) == 16_000
        return ends

    assert_ended_in_good_order(asyncio.run(asyncio.wait_for(scene(), 300)))
    slots = re.findall(r'voxveil_slots\{replica="\w+"\} (\S+)', command.get("/metrics"))
    assert 9.0 in map(float, slots), "the new configuration is not there"


def test_a_stopped_server_gives_each_call_its_tail_and_says_why(command: Command) -> None:
    async def scene() -> tuple[str, int, int]:
        heard = asyncio.Event()
        call = asyncio.create_task(talk_until_told(command, heard))
        await heard.wait()
        command.process.send_signal(signal.SIGTERM)
        return await call

    assert_ended_in_good_order([asyncio.run(asyncio.wait_for(scene(), 60))])
    assert command.process.wait(60) == 0
    log = command.log.read_text()
    assert log[log.index("Draining…") :].split() == ["Draining…", "Stopped."]
    assert TOKEN not in log
