"""The register: one small actor that knows what all replicas do, so that a token's limit holds across them.

Replicas report every second; what a dead replica held lapses with its last report. It also gathers the replicas'
figures, so that one scrape sees them all. It never sees audio or tokens, only their names.
"""

import threading
import time
from collections.abc import Callable

from prometheus_client import Metric

REPORT_EVERY = 1.0  # seconds
LAPSES_AFTER = 8.0  # seconds without a report: a replica on a busy machine is late, not dead


class Register:
    """Counts sessions by token name over all replicas. Plain Python: the application makes an actor of it.

    Ray calls the methods of such an actor from several threads at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.seen: dict[str, float] = {}
        self.held: dict[str, dict[str, str]] = {}  # replica -> session -> token name
        self.resumed: dict[str, str] = {}  # session that another took the place of -> replica
        self.metrics: dict[str, list[Metric]] = {}
        self._lock = threading.Lock()

    def admit(self, replica: str, session: str, token: str, limit: int, resumes: str | None = None) -> bool:
        """Return whether `session` may open: whether the token has fewer than `limit` sessions anywhere.

        A session that it `resumes` counts no more: its replica may be dead without the register knowing yet. Where it
        is not, its next report is told to end it.
        """
        with self._lock:
            self._forget_the_dead()
            self.seen[replica] = self.clock()
            held = [(own, holder, name) for holder, sessions in self.held.items() for own, name in sessions.items()]
            if sum(name == token and own != resumes for own, _, name in held) >= limit:
                return False
            for own, holder, name in held:
                if own == resumes and name == token:
                    self.resumed[own] = holder
                    del self.held[holder][own]
            self.held.setdefault(replica, {})[session] = token
            return True

    def release(self, replica: str, session: str) -> None:
        """Forget a session that has ended."""
        with self._lock:
            self.held.get(replica, {}).pop(session, None)

    def report(self, replica: str, sessions: dict[str, str], metrics: list[Metric]) -> list[str]:
        """Take a replica's word for what it holds, and return those that it is to end: others took their place.

        A register that was restarted knows all again within a second.
        """
        with self._lock:
            self.seen[replica] = self.clock()
            self.resumed = {own: holder for own, holder in self.resumed.items() if holder != replica or own in sessions}
            self.held[replica] = {own: name for own, name in sessions.items() if own not in self.resumed}
            self.metrics[replica] = metrics
            return [own for own in sessions if own in self.resumed]

    def reports(self) -> dict[str, list[Metric]]:
        """Return the metrics of the replicas that are alive."""
        with self._lock:
            self._forget_the_dead()
            return dict(self.metrics)

    def _forget_the_dead(self) -> None:
        now = self.clock()
        for replica in [name for name, seen in self.seen.items() if now - seen > LAPSES_AFTER]:
            del self.seen[replica]
            self.held.pop(replica, None)
            self.metrics.pop(replica, None)
            self.resumed = {own: holder for own, holder in self.resumed.items() if holder != replica}
