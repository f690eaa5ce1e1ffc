"""How a drawing becomes SVG that fits into the page: text that stays text, colours that are CSS variables.

A drawing follows the page into dark mode and still opens on its own. Drawing the same twice gives the same bytes.
matplotlib is imported when the first one is drawn. Knows nothing of what is drawn.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib can draw with; each becomes a CSS variable. (stand-in, variable, light default)
INK, SOFT, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
BLUE, AMBER, GREEN = "#050505", "#060606", "#070707"
_COLOURS = {
    INK: ("ink", "#1d2733"),
    SOFT: ("soft", "#566573"),
    LINE: ("line", "#dfe4e9"),
    PAPER: ("paper", "#ffffff"),
    BLUE: ("blue", "#1f6fb2"),
    AMBER: ("amber", "#b85c00"),
    GREEN: ("green", "#1d7a5a"),
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "voxveil",
    "text.parse_math": False,  # labels come from the data; a dollar sign is a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
WIDTH = 4.3  # inches; a column of the page, so that text keeps a readable size on a telephone


def draw_svg(draw: "Callable[[Axes], None]", height: float, name: str) -> str:
    """Draw on a fresh figure and return its SVG, ids made unique by `name`, colours made CSS variables."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's font will have it
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _restyled(buffer.getvalue(), slug(name))


def _restyled(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)  # would style the page
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', rf"\1{name}-\2", svg)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, sans-serif", svg)
    for stand_in, (variable, light) in _COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{variable}, {light})")
    return svg.strip() + "\n"


def slug(text: str) -> str:
    """Return a name for files and ids; one that had to be changed beyond recognition stays unique."""
    plain = re.sub(r"[._ ]", "-", text.lower())
    safe = re.sub(r"[^a-z0-9-]", "", plain)[:80]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def clean(label: str, longest: int = 28) -> str:
    """Return a label from the data as one short printable line."""
    printable = "".join(letter if letter.isprintable() else " " for letter in label)
    line = " ".join(printable.split()) or "(empty)"
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
