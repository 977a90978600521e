"""Imports point one way, and importing the package, or asking for help, loads nothing heavy."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "sparring"

MAY_IMPORT = {
    "core": {"core"},
    "attacks": {"core", "attacks"},
    "engine": {"core", "engine"},
    "evaluation": {"core", "attacks", "evaluation"},
    "domains": {"core", "attacks", "domains"},
    "report": {"core", "engine", "evaluation", "domains", "report"},
    "systems": {"core", "attacks", "engine", "evaluation", "domains", "systems"},
    "trust": set(),
    "runs": {"core", "engine", "domains", "trust"},
    "commands": {
        "core",
        "attacks",
        "engine",
        "evaluation",
        "domains",
        "systems",
        "report",
        "runs",
        "trust",
        "commands",
    },
    "cli": {"engine", "commands"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Every sparring module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name and name.split(".")[0] == "sparring"}


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_one_way(part: str) -> None:
    files = [f for f in FILES if f.relative_to(SOURCE).parts[0] in (part, f"{part}.py")]
    assert files
    for file in files:
        parts = {name.split(".")[1] for name in imported(file) if "." in name} - {"__version__"}
        assert parts <= MAY_IMPORT[part], f"{file.relative_to(SOURCE)} imports {sorted(parts - MAY_IMPORT[part])}"


def test_every_part_of_the_package_has_its_rule() -> None:
    parts = {file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in FILES}
    assert parts == set(MAY_IMPORT) | {"__init__", "__main__"}


def test_a_domain_never_imports_another() -> None:
    for file in FILES:
        parts = file.relative_to(SOURCE).parts
        if parts[0] == "domains" and len(parts) > 2:
            domains = {name.split(".")[2] for name in imported(file) if name.startswith("sparring.domains.")}
            assert domains <= {parts[1]}, file


def test_the_core_imports_torch_and_the_standard_library_only() -> None:
    for file in (SOURCE / "core").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert str(name).split(".")[0] in {"torch", "sparring", *sys.stdlib_module_names}, f"{file}: {name}"


def loaded_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "numpy", "sklearn", "lightning_fabric", "torchmetrics", "matplotlib", "jinja2", "PIL", "rich", "tyro"}


@pytest.mark.parametrize("code", ["import sparring", "import sparring.cli", "import sparring.report"])
def test_a_bare_import_loads_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & HEAVY


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("sparring.core.attack", {"sklearn", "lightning_fabric", "torchmetrics", "matplotlib", "rich", "tyro", "PIL"}),
        ("sparring.systems.pgd_at", {"sklearn", "lightning_fabric", "torchmetrics", "matplotlib", "tyro", "PIL"}),
        ("sparring.domains.image", {"sklearn", "lightning_fabric", "torchmetrics", "matplotlib", "tyro", "PIL"}),
        ("sparring.evaluation.evaluate", {"sklearn", "lightning_fabric", "jinja2", "tyro"}),
    ],
)
def test_a_part_loads_no_more_than_it_needs(module: str, absent: set[str]) -> None:
    assert not loaded_by(f"import {module}") & absent


def test_help_answers_in_half_a_second() -> None:
    """The best of five: a shared machine may be slow once, an import that creeps in is slow every time."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sparring", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_the_public_names_are_what_the_package_gives() -> None:
    import sparring

    assert set(sparring.__all__) == set(sparring._HOME)
    for name in sparring.__all__:
        assert getattr(sparring, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sparring.nothing


def test_no_file_is_named_after_nothing_or_grows_past_reading() -> None:
    for file in FILES:
        assert file.stem not in {"utils", "misc", "common", "helpers"}, file
        assert len(file.read_text().splitlines()) <= 400, file
