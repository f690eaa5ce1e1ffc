"""The web application of one replica: the page, the WebSocket, the file endpoint, health and metrics.

A plain FastAPI application around a Service, so that it runs under any ASGI server and is tested without Ray.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from serve.connection import serve_connection
from serve.files import UnusableFile
from serve.meters import render
from serve.protocol import NamedVoice, RandomVoice, Refusal, SeededVoice
from serve.register import REPORT_EVERY
from serve.service import Service
from serve.tokens import bearer

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"app.js", "drawing.js", "call.js", "capture.js", "playback.js", "style.css"}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
UPLOAD_WITHIN = 300.0  # seconds: others wait for the place
LINGER_BYTES = 64 << 20
LINGER_SECONDS = 5.0
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",
}

# What a person should know of an anonymizer before trusting it.
NOTES = {
    "mcadams": "It is a baseline: whoever knows the method can undo much of it.",
    "streamvoiceanon": "What it protects depends on its training and its voices: audit it on your own speech.",
    "identity": "It changes nothing and is there for tests: everybody will know you.",
}

logger = logging.getLogger("voxveil.serve")


def build_web(service: Service) -> FastAPI:
    """Return the application; its lifespan runs the engine."""
    config = service.config

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.engine.run()), asyncio.create_task(report_regularly(service))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            service.stop()

    web = FastAPI(
        title="voxveil",
        summary="Speech in, the same words in nobody's voice out",
        description="Live calls go over `WS /v1/stream`, which OpenAPI cannot describe: see docs/streaming.md.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    if config.origins:
        web.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Voxveil-Seconds"],
        )

    @web.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        if not is_welcome(socket, service):
            await socket.close(1008)  # before the handshake is done: the client sees HTTP 403
            return
        await socket.accept()
        await serve_connection(socket, service)

    @web.post(
        "/v1/anonymize",
        summary="Anonymize a file",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "The anonymous speech, 16-bit FLAC at the file's sample rate, sent while it is made",
                "content": {"audio/flac": {"schema": {"type": "string", "format": "binary"}}},
                "headers": {"Voxveil-Seconds": {"description": "Duration", "schema": {"type": "number"}}},
            },
            **{
                status: {"description": text, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
                for status, text in _FILE_ERRORS.items()
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    kind: {"schema": {"type": "string", "format": "binary"}}
                    for kind in ("audio/wav", "audio/flac", "audio/ogg")
                },
            },
            "security": [{"bearer": []}] if config.tokens else [],
        },
    )
    async def anonymize_file(
        request: Request,
        voice: Annotated[str | None, Query(max_length=64, description="A voice of the bank; random if neither")] = None,
        seed: Annotated[int | None, Query(ge=0, lt=2**64, description="The seed of a voice")] = None,
    ) -> Response:
        if not is_welcome(request, service):
            return _error(403, "this origin or host may not use the service")
        hold = contextlib.AsyncExitStack()
        try:
            name, limit = service.authorise(bearer(request.headers.get("authorization")))
            await hold.enter_async_context(service.admitted(name, limit))
            hold.enter_context(service.one_file())
            wanted = choose_voice(voice, seed)
            drawn, drawn_seed = service.voice(wanted)
            recording = await service.decode(await read_body(request, config.limits.upload_bytes))
        except (Refusal, UnusableFile) as fault:
            await hold.aclose()
            await discard_body(request)
            return refuse_file(service, fault)
        except ClientDisconnect:
            await hold.aclose()
            service.meters.files.labels("left").inc()
            return Response(status_code=400)  # nobody gets it
        except BaseException:
            await hold.aclose()
            raise

        async def pieces() -> AsyncGenerator[bytes, None]:
            outcome = "left"
            try:
                async for piece in service.anonymize(recording, drawn, drawn_seed):
                    yield piece
                outcome = "done"
            except Exception as fault:
                # The answer is under way and can only be cut. The kind alone: a message could quote samples.
                outcome = "internal"
                logger.error("a file failed with %s", type(fault).__name__)
                raise RuntimeError("the answer was cut") from None
            finally:
                service.meters.files.labels(outcome).inc()
                await hold.aclose()  # before the client has the end of it and sends the next file

        seconds = len(recording.wave) / recording.sample_rate
        return PatientResponse(
            pieces(),
            hold,
            config.limits.patience,
            media_type="audio/flac",
            headers={"Voxveil-Seconds": f"{seconds:.3f}", "Cache-Control": "no-store"},
        )

    @web.exception_handler(RequestValidationError)
    async def refuse_query(request: Request, fault: RequestValidationError) -> Response:
        error = fault.errors()[0]
        await discard_body(request)
        return refuse_file(service, Refusal("bad_start", f"{error['loc'][-1]}: {error['msg']}"))

    @web.get("/v1/about", summary="What this server offers")
    async def about() -> dict[str, Any]:
        limits = config.limits
        return {
            "anonymizer": config.anonymizer,
            "note": NOTES.get(config.anonymizer, ""),
            "sample_rate": service.anonymizer.sample_rate,
            "voices": service.voices.names,
            "token_required": bool(config.tokens),
            "session_seconds": limits.session_seconds,
            "upload_seconds": limits.upload_seconds,
            "upload_bytes": limits.upload_bytes,
        }

    @web.get("/healthz", summary="Whether this replica takes sessions", response_class=PlainTextResponse)
    async def health() -> Response:
        return PlainTextResponse("draining", 503) if service.engine.draining else PlainTextResponse("ok")

    @web.get("/metrics", summary="All replicas' figures for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        reports = await service.registrar.reports() | {service.replica: service.meters.collect()}
        return Response(render(reports.values()), media_type="text/plain; version=0.0.4")

    @web.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @web.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in PAGE_FILES:
            return _error(404, "no such file")
        return FileResponse(PAGE / name, headers=PAGE_HEADERS)

    if config.tokens:
        _declare_bearer(web)
    return web


_ERROR_SCHEMA = {
    "type": "object",
    "required": ["code", "detail"],
    "properties": {"code": {"type": "string"}, "detail": {"type": "string"}},
}
_FILE_ERRORS = {
    400: "The voice is wrong",
    401: "The token is missing or unknown",
    403: "The origin or the host is not allowed",
    408: "The file came too slowly",
    413: "Too many bytes or too many seconds",
    415: "Not a WAV, FLAC or Ogg file",
    422: "The file cannot be read",
    429: "The token holds as many sessions as it may",
    503: "Busy; Retry-After says when to try again",
}


class PatientResponse(StreamingResponse):
    """A streamed answer that is cut when the client does not take a piece within `patience` seconds.

    However it ends, what it is made of is closed, and what it holds is given back.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], hold: contextlib.AsyncExitStack, patience: float, **options: Any
    ) -> None:
        super().__init__(pieces, **options)
        self.pieces, self.hold, self.patience = pieces, hold, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_patiently(message: Message) -> None:
            async with asyncio.timeout(self.patience):
                await send(message)

        async with self.hold, contextlib.aclosing(self.pieces):
            await super().__call__(scope, receive, send_patiently)


async def report_regularly(service: Service) -> None:
    """Report to the register every second; a register that is away is told again when it is back."""
    while True:
        try:
            await service.report()
        except Exception as fault:
            logger.warning("the register does not answer: %s", type(fault).__name__)
        await asyncio.sleep(REPORT_EVERY)


def is_welcome(connection: HTTPConnection, service: Service) -> bool:
    """Return whether the origin may use the service.

    A browser names the page's origin: it must be the server's own or one of the configuration's. Without tokens and
    unless the configuration says `open`, the host must be this machine's own name too, so that no foreign page that
    pretends to be this host (DNS rebinding) gets in.
    """
    config = service.config
    hosts = connection.headers.getlist("host")
    if not config.tokens and not config.open and not all(_host_name(host) in LOOPBACK for host in hosts):
        return False
    origins = connection.headers.getlist("origin")
    return all(origin in config.origins or [_place(origin)] == hosts for origin in origins)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def choose_voice(voice: str | None, seed: int | None) -> RandomVoice | SeededVoice | NamedVoice:
    """Return the voice that the query asks for; raises Refusal("bad_start") when it asks for two."""
    if voice and seed is not None:
        raise Refusal("bad_start", "ask for a voice or for a seed, not both")
    if seed is not None:
        return SeededVoice(kind="seed", seed=seed)
    return NamedVoice(kind="named", name=voice) if voice else RandomVoice()


async def read_body(request: Request, most_bytes: int) -> bytes:
    """Return the request's body; raises UnusableFile(413) as soon as it is too big, (408) when it takes too long."""
    too_big = UnusableFile(413, f"the file has more than {most_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most_bytes:
        raise too_big
    body = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_WITHIN):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise too_big
    except TimeoutError:
        raise UnusableFile(408, f"the file did not come within {UPLOAD_WITHIN:g} s") from None
    return bytes(body)


async def discard_body(request: Request) -> None:
    """Read what is left of a refused body, up to LINGER_BYTES and LINGER_SECONDS.

    Most clients send all of a file before they read the answer; one that meets a closed connection instead never
    learns why it was refused. Does nothing where the body was read to its end, which Starlette says by RuntimeError.
    """
    seen = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(LINGER_SECONDS):
            async for part in request.stream():
                seen += len(part)
                if seen > LINGER_BYTES:
                    break


def refuse_file(service: Service, fault: Refusal | UnusableFile) -> Response:
    """Return the answer to a file that is not anonymized."""
    if isinstance(fault, UnusableFile):
        code, status = {413: "too_big", 415: "bad_format", 503: "full"}.get(fault.status, "unusable"), fault.status
    else:
        code = fault.code
        status = {"unauthorised": 401, "too_many": 429, "shutting_down": 503}.get(code, 400)
    service.meters.files.labels(code).inc()
    return _error(status, str(fault), code)


def _error(status: int, detail: str, code: str = "refused") -> Response:
    headers = {"Retry-After": "3"} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"code": code, "detail": detail}, status, headers)


def _declare_bearer(web: FastAPI) -> None:
    """Name the bearer scheme in the OpenAPI document."""
    plain = web.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        return document

    web.openapi = openapi  # type: ignore[method-assign]
