"""`voxveil serve` with the network, as nobody, where nothing can be written: it scales up with its calls, and down."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from live_server import speech_like
from serve_command import Command, short_folder
from tiny_network import VOICES, write_tiny_network

from serve.client import Connection, Lost, Refused, stream_wave

pytestmark = pytest.mark.slow

PATIENCE = 240.0  # seconds


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    folder = short_folder()
    model, voices = write_tiny_network(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    config = {
        "slots": 3,
        "drain_seconds": 0.5,
        "limits": {"idle_timeout": 600},
        "replicas": {"minimum": 1, "maximum": 2, "target_sessions": 2, "idle_seconds": 5},
    }
    options = ["--anonymizer", "streamvoiceanon", "--model", str(model), "--voices", str(voices)]
    command = Command(config, *options, folder=folder, unprivileged=True)
    yield command
    command.stop()


async def within_patience(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.5)


def test_nobody_serves_the_banks_voices_from_a_file_system_that_cannot_be_written(command: Command) -> None:
    for process in (command.process.pid, *command.replicas()):
        status = Path(f"/proc/{process}/status").read_text()
        assert "Uid:\t0\t" not in status
        assert "CapEff:\t0000000000000000" in status
    assert command.replicas()
    wave = speech_like(1.0)
    voice = {"kind": "named", "name": VOICES[1]}
    report = asyncio.run(asyncio.wait_for(stream_wave(wave, 16_000, command.url, voice=voice), PATIENCE))
    assert len(report.wave) == len(wave)
    assert 3 * 46.4 < report.algorithmic_latency_ms < 180  # the network's, and what resampling waits for


def test_more_calls_than_one_replica_holds_raise_another_which_goes_when_they_go(command: Command) -> None:
    async def scene() -> None:
        assert len(command.sessions()) == 1
        calls: list[Connection] = []

        async def join() -> None:
            """Call until there is room, as the protocol says of `full`."""
            while True:
                try:
                    calls.append(await Connection(command.url, 16_000).__aenter__())
                    await calls[-1].send(np.zeros(320, np.float32))
                    return
                except (Lost, Refused) as refusal:
                    if not getattr(refusal, "retry", True):
                        raise
                    await asyncio.sleep(0.5)

        await asyncio.gather(*(join() for _ in range(5)))  # a replica holds three
        # A replica's figures are a second old where another answers.
        await within_patience(lambda: sorted(command.sessions().values()) == [2, 3])
        for call in calls:
            await call.end()
            while await call.receive() is not None:
                pass
        await within_patience(lambda: len(command.sessions()) == 1 and len(command.replicas()) == 1)

    asyncio.run(asyncio.wait_for(scene(), 3 * PATIENCE))


def test_whoever_stops_the_whole_group_gets_the_port_back(command: Command) -> None:
    os.killpg(command.process.pid, signal.SIGTERM)
    command.process.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", command.port))
                return
            except OSError:
                assert time.monotonic() < deadline, "something still holds the port"
        time.sleep(0.2)
