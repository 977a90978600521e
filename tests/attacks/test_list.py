"""The list of attacks is complete, and every attack on it has what a user needs to know."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from sparring.attacks import ATTACKS

SOURCE = Path(__file__).parents[2] / "src" / "sparring"


@pytest.mark.parametrize(("name", "module", "summary"), ATTACKS, ids=[name for name, _, _ in ATTACKS])
def test_a_listed_attack_is_there_and_explains_itself(name: str, module: str, summary: str) -> None:
    attack = getattr(importlib.import_module(module), name)
    said = (inspect.getdoc(attack) or "") + (importlib.import_module(module).__doc__ or "")
    assert "Args:" in said
    years = re.findall(r"\b(?:19|20)\d\d\b", summary)
    assert all(year in said for year in years), f"{name}: {years} not in its docstring"
    parameters = inspect.signature(attack).parameters
    if list(parameters)[:1] == ["gain"] and name != "trigger":
        assert list(parameters)[:3] == ["gain", "x", "threat"]
        assert parameters["rng"].default is None or name in ("deepfool",)
        hyper = [p for p in parameters.values() if p.name not in ("gain", "x", "threat")]
        assert all(p.kind is p.KEYWORD_ONLY for p in hyper)


def test_every_attack_there_is_is_listed() -> None:
    """A public function of the attacks whose first arguments are gain, x, threat is an attack."""
    found = set()
    for file in [*(SOURCE / "attacks").glob("*.py"), SOURCE / "core" / "pgd.py"]:
        for node in ast.parse(file.read_text()).body:
            public = isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            if public and [a.arg for a in node.args.args[:3]] == ["gain", "x", "threat"]:
                found.add(node.name)
    listed = {name for name, _, _ in ATTACKS}
    # what apgd, square, universal and the discrete searches are made of
    parts = {"apgd_l1", "random_search", "shared_perturbation", "lockstep"}
    assert found - parts <= listed
    # which take an attack, or look for one thing for many examples
    assert listed - found == {"targeted", "transfer", "trigger", "gcg"}
