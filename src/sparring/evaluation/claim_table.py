"""What `sparring reproduce` found, for a reader: one claim as plain text, several as the practitioner's table."""

from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]
_HEAD = (
    "method",
    "epochs",
    "clean",
    "robust",
    "gap best - last",
    "train s",
    "x standard step",
    "difference (95 %)",
    "verdict",
)


def table(claims: Sequence[Figures]) -> str:
    """Claims as a Markdown table: shares in percent, the mean over seeds with its standard error in brackets, the
    difference to the baseline in points. A baseline that claims share stands there once.

    Args:
        claims: what `sparring reproduce --json` prints, and keeps in `runs/reproduce/NAME/claim-*.json`.
    """
    rows: list[Sequence[str]] = [_HEAD, ["---", *["--:"] * (len(_HEAD) - 2), "---"]]
    seen = []
    for claim in claims:
        for arm in claim["arms"]:
            if arm["runs"] not in seen or arm["role"] != "baseline":
                rows.append(_row(arm))
            seen.append(arm["runs"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def text(claim: Figures) -> str:
    """One claim as a terminal shows it."""
    effect, trial = claim["effect"], claim["effect"]["trial"]
    balls = " and ".join(f"{norm} eps {eps:.4g}" for norm, eps in zip(trial["norms"], trial["eps"], strict=True))
    images = f"{effect['n']} test images"
    lines = [
        f"{effect['question']}  {effect['method']} against {claim['arms'][0]['name']}",
        f"{trial['data']}, {balls}; suite {trial['suite']}, {images}, "
        f"seeds {', '.join(map(str, claim['seeds']))}; mean (standard error over seeds)",
        "",
    ]
    rows = [_HEAD[:7], *([*_row(arm)[:7]] for arm in claim["arms"])]
    widths = [max(len(row[i]) for row in rows) for i in range(7)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells))
    lines.append("")
    for arm in claim["arms"][1:]:
        lines.append(f"  {arm['effect']['metric']}, {arm['role'].replace('-', ' ')}: {_points(arm['effect'])} points")
        for row in arm["effect"]["by_seed"]:
            test = f", p = {row['p']:.3f}" if "p" in row else ""
            lines.append(f"    seed {row['seed']}: {_points(row)}{test}")
        lines += [
            f"    doubtful, checks failed: {who} {', '.join(d)}" for who, d in arm["effect"]["doubts"].items() if d
        ]
    asked = f"least effect {100 * effect['least_effect']:+.1f} points, {effect['arm'].replace('-', ' ')}"
    return "\n".join([*lines, "", f"verdict: {claim['verdict']} ({asked})"])


def _row(arm: Figures) -> list[str]:
    effect = arm.get("effect")
    return [
        arm["name"],
        str(arm["epochs"]),
        _share(arm["clean"]),
        _share(arm["robust"]),
        _share(arm["gap"], "+.1f"),
        f"{arm['seconds']['mean']:.0f}",
        f"{arm['step_ratio']['mean']:.1f}",
        _points(effect) if effect else "",
        arm.get("verdict", "baseline"),
    ]


def _share(figures: Figures, form: str = ".1f") -> str:
    error = figures["standard_error"]
    return f"{100 * figures['mean']:{form}}" + ("" if error is None else f" ({100 * error:.1f})")


def _points(figures: Figures) -> str:
    ends = ""
    if figures.get("low") is not None:
        ends = f" ({100 * figures['low']:+.1f} to {100 * figures['high']:+.1f})"
    return f"{100 * figures['difference']:+.1f}{ends}"
