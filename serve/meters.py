"""What Prometheus sees of one replica. The engine counts here; the application renders all replicas' as one page."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import generate_latest

LATENCY_BUCKETS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.18, 0.25, 0.5, 1.0, 2.0, 5.0)
STEP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.0464, 0.07, 0.1, 0.2, 0.5, 1.0)


class Meters:
    """Counters, gauges and histograms of one replica, all named `voxveil_…` and labelled with the replica."""

    def __init__(self, replica: str = "local") -> None:
        self.replica = replica
        self.registry = CollectorRegistry()
        self.sessions = Gauge("voxveil_sessions", "Sessions that hold a slot now", registry=self.registry)
        self.slots = Gauge("voxveil_slots", "Slots of the replica", registry=self.registry)
        self.opened = Counter("voxveil_sessions_opened", "Sessions opened", registry=self.registry)
        self.closed = Counter(
            "voxveil_sessions_closed",
            "Sessions closed, by how: ended, left, or an error code",
            ["how"],
            registry=self.registry,
        )
        self.audio = Counter("voxveil_audio_seconds", "Seconds of audio anonymized live", registry=self.registry)
        self.latency = Histogram(
            "voxveil_latency_seconds",
            "From a sample's arrival at the replica to its anonymous counterpart handed to the network",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.step = Histogram(
            "voxveil_step_seconds", "One batched step over all sessions", buckets=STEP_BUCKETS, registry=self.registry
        )
        self.misses = Counter(
            "voxveil_deadline_misses", "Steps that ended more than a frame after they were due", registry=self.registry
        )
        self.files = Counter("voxveil_files", "Files anonymized, by outcome", ["outcome"], registry=self.registry)

    def collect(self) -> list[Metric]:
        """Return the present values, each sample labelled with the replica; plain data that can travel."""
        families = list(self.registry.collect())
        for family in families:
            family.samples = [
                sample._replace(labels={**sample.labels, "replica": self.replica}) for sample in family.samples
            ]
        return families


def render(reports: Iterable[list[Metric]]) -> bytes:
    """Return several replicas' metrics in Prometheus' text format, each family told once."""
    families: dict[str, Metric] = {}
    for report in reports:
        for metric in report:
            whole = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            whole.samples.extend(metric.samples)

    class Collected:
        def collect(self) -> Iterable[Metric]:
            return families.values()

    registry = CollectorRegistry()
    registry.register(Collected())
    return generate_latest(registry)
