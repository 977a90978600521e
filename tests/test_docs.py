"""Every Python block of the README and the docs runs, in the order it stands, and every link leads somewhere."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROGRAMS = [page for page in PAGES if "```python\n" in page.read_text()]


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    out = io.StringIO()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
        code = compile(block, f"{page.name}, block {number + 1}", "exec", dont_inherit=True)
        with contextlib.redirect_stdout(out):
            exec(code, {"__name__": "__main__"})
    if page.name == "README.md":
        assert re.search(r"worst +\d+\.\d %", out.getvalue())


def test_the_readme_and_the_docs_have_programs() -> None:
    assert {page.name for page in PROGRAMS} >= {"README.md", "extending.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_system_has_a_page() -> None:
    from sparring.systems import NAMES

    assert {page.stem for page in (ROOT / "docs/systems").glob("*.md")} == {name for name, _ in NAMES}


def test_every_command_line_of_the_readme_parses() -> None:
    """Flags that the README shows exist: each `sparring train` line is parsed as the command line would."""
    from sparring.commands.train import Where, flags_of
    from sparring.systems import find

    lines = re.findall(r"^sparring train (\S+) (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert lines
    for name, flags in lines:
        chosen = flags_of(find(name), flags.split())
        assert isinstance(chosen.where, Where)
        assert chosen.config.eps == 8 / 255
