"""One replica's service: the anonymizer, the engine that steps it, and who may use them.

It knows nothing of sockets or of Ray.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from prometheus_client import Metric

from models.anonymizer import Anonymizer
from models.catalogue import load_anonymizer
from serve.config import ServeConfig
from serve.engine import Engine
from serve.files import Recording, UnusableFile, anonymize, decode
from serve.meters import Meters
from serve.protocol import NamedVoice, RandomVoice, Refusal, SeededVoice
from serve.register import Register
from serve.session import Session
from serve.tokens import ANYBODY, find_token
from serve.voices import NamedVoices

REGISTER_ANSWERS_WITHIN = 5.0  # seconds

logger = logging.getLogger("voxveil.serve")


class Registrar(Protocol):
    """The register as a replica reaches it: in the same process, or over Ray."""

    async def admit(self, replica: str, session: str, token: str, limit: int, resumes: str | None) -> bool: ...

    async def release(self, replica: str, session: str) -> None: ...

    async def report(self, replica: str, sessions: dict[str, str], metrics: list[Metric]) -> list[str]: ...

    async def reports(self) -> dict[str, list[Metric]]: ...


class LocalRegistrar:
    """The register of a single process."""

    def __init__(self) -> None:
        self.register = Register()

    async def admit(self, replica: str, session: str, token: str, limit: int, resumes: str | None) -> bool:
        return self.register.admit(replica, session, token, limit, resumes)

    async def release(self, replica: str, session: str) -> None:
        self.register.release(replica, session)

    async def report(self, replica: str, sessions: dict[str, str], metrics: list[Metric]) -> list[str]:
        return self.register.report(replica, sessions, metrics)

    async def reports(self) -> dict[str, list[Metric]]:
        return self.register.reports()


class Service:
    """Everything that a connection needs: who may speak, with which voice, on which session."""

    def __init__(
        self,
        config: ServeConfig,
        registrar: Registrar | None = None,
        replica: str = "local",
        anonymizer: Anonymizer[Any] | None = None,
    ) -> None:
        self.config = config
        self.replica = replica
        self.registrar = registrar or LocalRegistrar()
        self.anonymizer = anonymizer or load_anonymizer(config.anonymizer_spec, config.sample_rate)
        self.voices = NamedVoices(self.anonymizer, config.named_seeds)
        self.meters = Meters(replica)
        self.engine = Engine(self.anonymizer, config.engine_settings(), self.meters)
        self.holders: dict[str, str] = {}  # session id -> token name
        self.live: dict[str, Session] = {}  # session id -> its call
        self.turn = asyncio.Lock()  # to speak with the register: a report must not overtake what it tells of
        self.files_running = 0
        # Files wait for calls: their threads yield to the engine's.
        self.file_workers = ThreadPoolExecutor(
            config.limits.uploads_at_once, thread_name_prefix="files", initializer=_be_nice
        )

    def authorise(self, given: str) -> tuple[str, int]:
        """Return the name of the token and how many sessions it may hold; raises Refusal("unauthorised")."""
        if not self.config.tokens:
            return ANYBODY, self.config.capacity * self.config.replicas.maximum
        token = find_token(self.config.tokens, given)
        if token is None:
            raise Refusal("unauthorised", "the token is missing or unknown")
        return token.name, token.sessions

    @contextlib.asynccontextmanager
    async def admitted(self, name: str, limit: int, resumes: str | None = None) -> AsyncIterator[str]:
        """Hold one of the token's sessions and give its id; raises Refusal("too_many").

        When the register does not answer, the session is admitted: a call matters more than a count.
        """
        session = secrets.token_hex(8)
        try:
            async with asyncio.timeout(REGISTER_ANSWERS_WITHIN), self.turn:
                if not await self.registrar.admit(self.replica, session, name, limit, resumes):
                    raise Refusal("too_many", f"the token has its {limit} sessions already")
                self.holders[session] = name
        except TimeoutError:
            logger.warning("the register does not answer in time; the call is admitted")
            self.holders[session] = name
        try:
            yield session
        finally:
            del self.holders[session]
            await asyncio.shield(self._release(session))

    async def _release(self, session: str) -> None:
        with contextlib.suppress(TimeoutError):  # the next report says so too
            async with asyncio.timeout(REGISTER_ANSWERS_WITHIN), self.turn:
                await self.registrar.release(self.replica, session)

    def voice(self, wanted: RandomVoice | SeededVoice | NamedVoice) -> tuple[Any, int]:
        """Return the anonymizer's voice and the seed of its sampling; raises Refusal("bad_start")."""
        if isinstance(wanted, NamedVoice):
            if wanted.name not in self.voices.names:
                raise Refusal("bad_start", "voice.name: the bank has no such voice; GET /v1/about lists them")
            return self.voices.voice(wanted.name)
        seed = wanted.seed if isinstance(wanted, SeededVoice) else secrets.randbits(64)
        return self.anonymizer.draw_voice(seed), seed

    async def decode(self, content: bytes) -> Recording:
        """Decode an upload in a worker thread; raises UnusableFile."""
        limits = self.config.limits
        return await asyncio.get_running_loop().run_in_executor(
            self.file_workers, decode, content, limits.upload_seconds, limits.decode_timeout
        )

    async def anonymize(self, recording: Recording, voice: Any, seed: int) -> AsyncIterator[bytes]:
        """Yield an anonymous FLAC piece by piece, each made in a worker thread."""
        pieces: Iterator[bytes] = anonymize(recording, self.anonymizer, voice, seed)
        loop = asyncio.get_running_loop()
        while (piece := await loop.run_in_executor(self.file_workers, next, pieces, None)) is not None:
            yield piece

    @contextlib.contextmanager
    def one_file(self) -> Iterator[None]:
        """Hold one of the places for files; raises UnusableFile(503) when there is none."""
        if self.files_running >= self.config.limits.uploads_at_once:
            raise UnusableFile(503, "the server is busy with other files; try again in a few seconds")
        self.files_running += 1
        try:
            yield
        finally:
            self.files_running -= 1

    async def report(self) -> None:
        """Tell the register what this replica holds, and its figures, and end the calls that others took the place of.

        Raises TimeoutError.
        """
        async with asyncio.timeout(REGISTER_ANSWERS_WITHIN), self.turn:
            resumed = await self.registrar.report(self.replica, self.holders, self.meters.collect())
        for session in resumed:
            if session in self.live:
                self.live[session].fail(Refusal("resumed", "another call goes on in the place of this one"))

    def stop(self) -> None:
        """Let the worker threads go."""
        self.engine.stop()
        self.file_workers.shutdown(wait=False, cancel_futures=True)


def _be_nice() -> None:
    """Lower the calling thread's priority. On Linux a thread has its own."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
