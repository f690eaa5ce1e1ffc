"""The drawings of the report as SVG: what the attackers saw, what the recogniser confused, who is worse off.

What a drawing looks like as SVG is the business of `drawing`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from governance.catalogue import SCENARIO_TITLES, describe, written
from governance.drawing import AMBER, BLUE, GREEN, INK, LINE, PAPER, SOFT, clean, draw_svg, slug
from governance.evidence import Evidence
from metrics.chance import linkability_chance, singling_out_chance
from metrics.estimate import Estimate
from metrics.verification import det_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SCENARIO_STYLES = {
    "unprotected": (SOFT, (0, (1, 1.2)), "o"),
    "ignorant": (GREEN, (0, (4, 1.5)), "s"),
    "lazy_informed": (BLUE, "solid", "D"),
    "semi_informed": (AMBER, (0, (6, 1.5, 1, 1.5)), "^"),
}
MOST_GROUPS = 24  # of a subgroup that are drawn; those that fare worst, where there are more


@dataclass(frozen=True)
class Plot:
    """A drawing: `name` is also its file name, `alt` says in words what it shows."""

    name: str
    title: str
    alt: str
    svg: str


def draw_all(evidence: Evidence) -> list[Plot]:
    """Draw everything that there is evidence for, in the order of the report."""
    shared = _range(evidence.scores)
    plots = [score_distribution(name, *evidence.scores[name], shared) for name in _present(evidence.scores)]
    if plots:
        plots.append(det_curve(evidence.scores))
    for kind in ("linkability", "singling_out"):
        series = population_series(evidence.metrics, kind)
        if series:
            plots.append(against_population(kind, series))
    for side in ("original", "anonymized"):
        if side in evidence.confusions:
            plots.append(confusion_matrix(side, evidence.confusions[side], evidence.emotion_classes))
    for name, column, groups in subgroup_series(evidence.metrics):
        plots.append(subgroup_intervals(name, column, groups, evidence.metrics.get(name)))
    return plots


def score_distribution(
    scenario: str,
    mated: npt.NDArray[np.floating],
    nonmated: npt.NDArray[np.floating],
    extent: tuple[float, float],
) -> Plot:
    """Draw how the attacker scores pairs of one speaker and pairs of two: the more they overlap, the less it knows.

    `extent` is the range of scores to draw, the same for all scenarios so that they can be compared.
    """
    mated, nonmated = _finite(mated), _finite(nonmated)
    bins = np.linspace(*extent, 41)

    def draw(axes: "Axes") -> None:
        for values, colour, label, dashes in (
            (nonmated, AMBER, f"two speakers ({nonmated.size:,} pairs)", (0, (3, 1))),
            (mated, BLUE, f"one speaker ({mated.size:,} pairs)", "solid"),
        ):
            heights = np.histogram(values, bins)[0] / max(values.size, 1)
            axes.stairs(heights, bins, fill=True, color=colour, alpha=0.18)
            axes.stairs(heights, bins, color=colour, linewidth=1.4, linestyle=dashes, label=label)
        axes.set(xlabel="similarity, as the attacker scores it", ylabel="share of pairs")
        axes.yaxis.set_major_formatter(_percent)
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.28)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", ncols=2, handlelength=1.6, columnspacing=1.2, borderaxespad=0)

    means = f"On average {mated.mean():.2f} and {nonmated.mean():.2f}." if mated.size and nonmated.size else ""
    return Plot(
        f"scores-{scenario}",
        SCENARIO_TITLES[scenario],
        f"Distribution of the attacker's similarity scores ({SCENARIO_TITLES[scenario].lower()}) for {mated.size} pairs"
        f" of recordings of one speaker and {nonmated.size} pairs of two speakers. {means}".strip(),
        draw_svg(draw, height=2.5, name=f"scores-{scenario}"),
    )


def det_curve(scores: Mapping[str, tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]]) -> Plot:
    """Draw the trade between the attacker's two errors on normal-deviate axes (Martin et al., Eurospeech 1997)."""
    from scipy.stats import norm

    ticks = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 0.95, 0.99])
    lowest, highest = 0.005, 0.995
    told = []

    def draw(axes: "Axes") -> None:
        axes.plot(*[norm.ppf([lowest, highest])] * 2, color=LINE, linewidth=0.8)
        guess = norm.ppf(np.linspace(lowest, highest, 101))
        axes.plot(guess, -guess, color=SOFT, linewidth=0.9, linestyle=(0, (2, 2)), label="guessing")
        for scenario in _present(scores):
            mated, nonmated = map(_finite, scores[scenario])
            false_alarm, miss = det_points(mated, nonmated)
            colour, dashes, _ = _SCENARIO_STYLES[scenario]
            axes.plot(
                norm.ppf(np.clip(false_alarm, lowest, highest)),
                norm.ppf(np.clip(miss, lowest, highest)),
                color=colour,
                linestyle=dashes,
                linewidth=1.5,
                label=SCENARIO_TITLES[scenario].lower(),
            )
            told.append(SCENARIO_TITLES[scenario].lower())
        labels = [f"{100 * tick:g} %" if tick in (0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99) else "" for tick in ticks]
        axes.set_xticks(norm.ppf(ticks), labels)
        axes.set_yticks(norm.ppf(ticks), labels)
        axes.set(xlim=norm.ppf([lowest, highest]), ylim=norm.ppf([lowest, highest]))
        axes.set(xlabel="two speakers taken for one", ylabel="one speaker taken for two")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.19), ncols=2, handlelength=2.2)

    svg = draw_svg(draw, height=3.0, name="det")
    return Plot(
        "det",
        "The attacker's two kinds of error (DET curve)",
        f"Detection error trade-off of the scenarios {', '.join(told)}. The nearer a curve lies to the dashed line of"
        " guessing, the less the attacker knows.",
        svg,
    )


def against_population(kind: str, series: Mapping[str, Sequence[tuple[int, Estimate]]]) -> Plot:
    """Draw linkability or singling out against the number of people to choose from, with chance."""
    titles = {"linkability": "Finding the right speaker in a list", "singling_out": "Pointing out exactly one speaker"}
    guess = linkability_chance if kind == "linkability" else singling_out_chance
    populations = sorted({population for points in series.values() for population, _ in points})

    def draw(axes: "Axes") -> None:
        across = np.unique(np.geomspace(populations[0], max(populations[-1], populations[0] + 1), 200).astype(int))
        chance = [guess(int(people)) for people in across]
        axes.plot(across, chance, color=SOFT, linestyle=(0, (2, 2)), linewidth=1, label="guessing")
        for position, (scenario, points) in enumerate(series.items()):
            colour, dashes, marker = _SCENARIO_STYLES[scenario]
            # side by side rather than on top of each other
            at = np.array([population for population, _ in points]) * 1.02 ** (position - (len(series) - 1) / 2)
            values = np.array([estimate.value for _, estimate in points])
            axes.vlines(
                at,
                [estimate.lower for _, estimate in points],
                [estimate.upper for _, estimate in points],
                color=colour,
                linewidth=1.2,
                alpha=0.55,
            )
            axes.plot(
                at,
                values,
                color=colour,
                linestyle=dashes,
                marker=marker,
                markersize=4,
                markerfacecolor=PAPER,
                linewidth=1.4,
                label=SCENARIO_TITLES[scenario].lower(),
            )
        axes.set_xscale("log")
        axes.set_xticks(populations, [f"{population:,}" for population in populations], minor=False)
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(_percent)
        axes.set(xlabel="number of speakers to choose from", ylabel="attempts that succeed")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=2, handlelength=2.2)

    last = "; ".join(
        f"{SCENARIO_TITLES[scenario].lower()} {written(points[-1][1].value, 'share')} of attempts among {points[-1][0]}"
        for scenario, points in series.items()
    )
    return Plot(
        kind.replace("_", "-"),
        titles[kind],
        f"{titles[kind]}, against the number of speakers, with 95 % intervals and the line of guessing: {last}.",
        draw_svg(draw, height=2.7, name=kind),
    )


def confusion_matrix(side: str, matrix: npt.NDArray[np.integer], classes: Sequence[str]) -> Plot:
    """Draw which emotion was recognised for which label, each row adding up to 100 %."""
    counts = np.asarray(matrix, dtype=float)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    labels = [clean(name) for name in classes]

    def draw(axes: "Axes") -> None:
        for row, column in np.ndindex(*shares.shape):
            share = shares[row, column]
            colour = BLUE if row == column else AMBER
            axes.add_patch(_rectangle(column, row, colour, 0.06 + 0.6 * share))
            text = f"{100 * share:.0f} %" if rows[row, 0] else "none"
            axes.text(column, row, text, ha="center", va="center", color=INK, fontsize=7.5)
        axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5))
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yticks(range(len(labels)), [f"{name} ({int(n)})" for name, n in zip(labels, rows[:, 0], strict=True)])
        axes.set(xlabel="recognised", ylabel="labelled")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)

    told = "; ".join(
        f"{name} {100 * shares[place, place]:.0f} % of {int(rows[place, 0])}" for place, name in enumerate(labels)
    )
    title = f"Emotions in the {side} speech"
    return Plot(
        f"confusion-{side}",
        title,
        f"Confusion matrix of the emotions in the {side} speech. Recognised as labelled: {told}.",
        draw_svg(draw, height=2.3, name=f"confusion-{side}"),
    )


def subgroup_intervals(
    name: str, column: str, groups: Sequence[tuple[str, Estimate]], overall: Estimate | None
) -> Plot:
    """Draw one metric for every value of a column, with intervals, and the figure of everyone as a line."""
    meaning = describe(name)
    every = len(groups)
    if every > MOST_GROUPS:
        sign = -1 if meaning.better == "lower" else 1
        groups = sorted(groups, key=lambda group: sign * group[1].value)[:MOST_GROUPS]
    labels = [f"{clean(value)} ({estimate.n})" for value, estimate in groups]
    scale = 100 if meaning.unit in ("share", "points", "ratio") else 1

    def draw(axes: "Axes") -> None:
        places = np.arange(len(groups))
        values = np.array([estimate.value for _, estimate in groups]) * scale
        lower = np.array([estimate.lower for _, estimate in groups]) * scale
        upper = np.array([estimate.upper for _, estimate in groups]) * scale
        if overall is not None and math.isfinite(overall.value):
            axes.axvline(overall.value * scale, color=SOFT, linestyle=(0, (2, 2)), linewidth=1, label="everyone")
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
        axes.barh(places, np.nan_to_num(values), height=0.55, color=BLUE, alpha=0.22)
        axes.hlines(places, lower, upper, color=BLUE, linewidth=1.6)
        axes.plot(values, places, "o", color=BLUE, markersize=4.5)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlim(left=min(0.0, float(np.nanmin(np.append(lower, 0.0)))))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{meaning.title}{' (per cent)' if scale == 100 else ''}", loc="left")

    only = f" (the worst {len(groups)} of {every})" if every > len(groups) else ""
    told = "; ".join(f"{clean(value)} {written(estimate.value, meaning.unit)}" for value, estimate in groups)
    return Plot(
        slug(f"subgroup-{column}-{name}"),
        f"{meaning.title}, by {clean(column)}{only}",
        f"{meaning.title} by {clean(column)}{only}, with 95 % intervals: {told}.",
        draw_svg(draw, height=0.75 + 0.3 * len(groups), name=slug(f"subgroup-{column}-{name}")),
    )


def population_series(metrics: Mapping[str, Estimate], kind: str) -> dict[str, list[tuple[int, Estimate]]]:
    """Return the finite figures of `linkability` or `singling_out` by scenario, by growing population."""
    series = {}
    for scenario in SCENARIO_TITLES:
        head = f"privacy.{scenario}.{kind}."
        points = [
            (int(name.removeprefix(head)), estimate)
            for name, estimate in metrics.items()
            if name.startswith(head) and math.isfinite(estimate.value)
        ]
        if points:
            series[scenario] = sorted(points, key=lambda point: point[0])
    return series


def subgroup_series(metrics: Mapping[str, Estimate]) -> list[tuple[str, str, list[tuple[str, Estimate]]]]:
    """Return (metric, column, [(value, estimate)]) for every metric that was measured within subgroups."""
    series: dict[tuple[str, str], list[tuple[str, Estimate]]] = {}
    for name, estimate in metrics.items():
        meaning = describe(name)
        if meaning.subgroup and math.isfinite(estimate.value):
            column, value = meaning.subgroup
            inner = name.removeprefix(f"subgroup.{column}.{value}.")
            series.setdefault((inner, column), []).append((value, estimate))
    return [(name, column, sorted(groups, key=lambda g: g[0])) for (name, column), groups in sorted(series.items())]


def _range(scores: Mapping[str, tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]]) -> tuple[float, float]:
    """Return the lowest and the highest score of all scenarios, so that their drawings can be compared."""
    every = [values for pair in scores.values() for part in pair if (values := _finite(part)).size]
    if not every:
        return 0.0, 1.0
    low, high = min(float(part.min()) for part in every), max(float(part.max()) for part in every)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _present(scenarios: Mapping[str, object]) -> list[str]:
    return [scenario for scenario in SCENARIO_TITLES if scenario in scenarios]


def _finite(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    values = np.asarray(values, dtype=float).ravel()
    return values[np.isfinite(values)]


def _percent(number: float, _: object = None) -> str:
    return f"{100 * number:g} %"


def _rectangle(column: int, row: int, colour: str, strength: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=colour, edgecolor="none", alpha=strength)
