"""Run records to one self-contained page, the same in Markdown, and JSON for machines.

The report reads plain files (`record.json`, `examples.safetensors`) and never loads a model, so it can be written
anywhere, long after a run. What a record does not hold, the page says is missing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sparring.report.read import ReportError, load

__all__ = ["ReportError", "Written", "write"]


class Written(NamedTuple):
    """Where the three files of a report are."""

    html: Path
    markdown: Path
    json: Path


def write(runs: Sequence[Path], out: Path, *, seed: int = 0) -> Written:
    """Write `report.html`, `report.md` and `report.json` about these runs into the folder `out`.

    The same records give the same bytes. Each file appears whole or not at all.

    Args:
        runs: run folders, in the order of the report; each holds a `record.json` and perhaps `examples.safetensors`.
        out: made if it is missing.
        seed: draws which of the stored examples are shown.

    Raises:
        ReportError: there is no run, or a folder has no readable record.
    """
    import sparring.report.page as page  # jinja2 and matplotlib load here, not with `import sparring`
    import sparring.report.publish as publish

    content = page.assemble(load(runs), seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    written = Written(out / "report.html", out / "report.md", out / "report.json")
    publish.replace(written.html, publish.html(content))
    publish.replace(written.markdown, publish.markdown(content))
    publish.replace(written.json, publish.json_text(content))
    return written
