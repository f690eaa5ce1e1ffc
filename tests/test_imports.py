"""The floors of the design: imports point down, and the bottom knows nothing of the machinery above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("pipelines", "operators", "models", "serve", "metrics", "governance")
ALLOWED = {
    "pipelines": {"pipelines", "operators", "models", "serve", "metrics", "governance"},
    "operators": {"operators", "models"},
    "serve": {"serve", "models"},
    "governance": {"governance", "metrics"},
    "models": {"models"},
    "metrics": {"metrics"},
}
FORBIDDEN = {
    "models": {"ray", "mlflow"},
    "metrics": {"ray", "mlflow", "torch"},
    "governance": {"ray", "torch"},
}


def imported_roots(path: Path) -> set[str]:
    """The top-level names that a module imports, anywhere in it."""
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.split(".")[0])
    return roots


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor: str) -> None:
    modules = list((ROOT / floor).rglob("*.py"))
    assert modules, f"the floor {floor} has no modules"
    for path in modules:
        roots = imported_roots(path)
        upward = (roots & set(FLOORS)) - ALLOWED[floor]
        assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}"
        known = roots & FORBIDDEN.get(floor, set())
        assert not known, f"{path.relative_to(ROOT)} knows of {sorted(known)}"
