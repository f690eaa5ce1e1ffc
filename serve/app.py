"""The Ray Serve application: replicas of the web application, and the register that they share.

`build` is what a Serve configuration file names (`import_path: serve.app:build`); deploy/serve.yaml is one.
"""

import asyncio
import contextlib
import gc
import logging
from typing import Any

from prometheus_client import Metric
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.config import ServeConfig, parse_config
from serve.register import Register
from serve.service import Service
from serve.web import build_web

HEADROOM = 8  # requests beyond the slots that reach a replica, so that it can say "full" itself, and for files
DRAIN_CHECK = 0.25  # seconds
MESSAGES_AHEAD = 16
LOOK_BACK = 15.0  # seconds; longer than the ten after which replicas tell Serve how many sessions go on

logger = logging.getLogger("voxveil.serve")


class RemoteRegistrar:
    """The register over Ray. When it fails, a session is admitted: a call matters more than a count."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def admit(self, replica: str, session: str, token: str, limit: int, resumes: str | None) -> bool:
        try:
            return bool(await self.handle.admit.remote(replica, session, token, limit, resumes))
        except Exception as fault:
            logger.warning("the register failed with %s; the call is admitted", type(fault).__name__)
            return True

    async def release(self, replica: str, session: str) -> None:
        with contextlib.suppress(Exception):  # the next report says so too
            await self.handle.release.remote(replica, session)

    async def report(self, replica: str, sessions: dict[str, str], metrics: list[Metric]) -> list[str]:
        return list(await self.handle.report.remote(replica, sessions, metrics))

    async def reports(self) -> dict[str, list[Metric]]:
        return dict(await self.handle.reports.remote())


@serve.ingress()
class Replica:
    """One replica: a Service behind the web application, drained when Serve stops it."""

    def __init__(self, config: dict[str, Any], register: DeploymentHandle) -> None:
        replica = serve.get_replica_context().replica_tag
        self.service = Service(parse_config(config), RemoteRegistrar(register), replica)
        gc.collect()
        gc.freeze()  # what is loaded stays, and no collection looks through all of it while calls wait
        self.watch = asyncio.get_event_loop().create_task(self._drain_when_stopped())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return bounded(build_web(self.service))

    async def check_health(self) -> None:
        """Raise where no call can go on here: Serve then replaces this replica."""
        if self.service.engine.broken:
            raise RuntimeError("the engine failed")

    async def _drain_when_stopped(self) -> None:
        """Let calls go on for `drain_seconds` once Serve has begun to stop this replica, then end them in good order.

        Serve waits for them, but tells nobody that it waits: hence the look.
        """
        while not is_stopping():
            await asyncio.sleep(DRAIN_CHECK)
        self.service.engine.draining = True
        await asyncio.sleep(self.service.config.drain_seconds)
        self.service.engine.drain()


def bounded(web: ASGIApp) -> ASGIApp:
    """Return the application with back-pressure.

    Serve reads a connection ahead into a queue without end, so that a client never feels that the server has stopped
    reading. With an end to the queue it does.
    """

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        queue = getattr(receive, "queue", None)
        if isinstance(queue, asyncio.Queue):
            queue._maxsize = MESSAGES_AHEAD  # type: ignore[attr-defined]
        await web(scope, receive, send)

    return application


def is_stopping() -> bool:
    """Return whether Serve is stopping this process's replica; False where it cannot be told."""
    from ray._private.worker import global_worker

    actor = global_worker.actors.get(global_worker.actor_id)
    return bool(getattr(actor, "_shutting_down", False))


def build(config: dict[str, Any]) -> serve.Application:
    """Return the application for a configuration as plain data; raises ConfigError."""
    return build_application(parse_config(config))


def build_application(config: ServeConfig) -> serve.Application:
    """Return the application: replicas scaled on their sessions, sharing one register."""
    replicas = config.replicas
    target = replicas.target_sessions or max(1, int(0.75 * config.capacity))
    register = serve.deployment(name="Register", num_replicas=1, ray_actor_options={"num_cpus": 0})(Register).bind()
    deployment = serve.deployment(
        name="Replica",
        max_ongoing_requests=config.capacity + HEADROOM,
        max_queued_requests=HEADROOM,
        autoscaling_config={
            "min_replicas": replicas.minimum,
            "max_replicas": replicas.maximum,
            "initial_replicas": replicas.minimum,
            "target_ongoing_requests": target,
            "look_back_period_s": LOOK_BACK,
            "upscale_delay_s": 3,
            "downscale_delay_s": replicas.idle_seconds,
        },
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=config.drain_seconds + 15.0,
        health_check_period_s=2,
        health_check_timeout_s=5,
    )(Replica)
    return deployment.bind(config.model_dump(mode="json"), register)
