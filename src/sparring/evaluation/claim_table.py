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
        if "method_ahead" in arm:
            continue
        lines.append(f"  {arm['effect']['metric']}, {arm['role'].replace('-', ' ')}: {points(arm['effect'])} points")
        for row in arm["effect"]["by_seed"]:
            test = f", p = {row['p']:.3f}" if "p" in row else ""
            lines.append(f"    seed {row['seed']}: {points(row)}{test}")
        lines += [
            f"    doubtful, checks failed: {who} {', '.join(d)}" for who, d in arm["effect"]["doubts"].items() if d
        ]
    lines += [*_controls(claim), *_measured(claim)]
    asked = f"least effect {100 * effect['least_effect']:+.1f} points, {effect['arm'].replace('-', ' ')}"
    return "\n".join([*lines, "", f"verdict: {claim['verdict']} ({asked})"])


def _controls(claim: Figures) -> list[str]:
    """How far the method is ahead of each control, and whether the decisive one has the gain as well."""
    rows = [arm for arm in claim["arms"] if "method_ahead" in arm]
    lines = [f"  ahead of {arm['name']}: {points(arm['method_ahead'])} points" for arm in rows]
    if control := claim["effect"].get("control"):
        lines.append(f"  the gain is its own only where it beats {control['label']} too: {control['verdict']}")
    return lines


def _measured(claim: Figures) -> list[str]:
    """What else was measured, a line for each figure and arm."""
    lines = []
    for name in claim["arms"][0].get("values", {}):
        arms = [(arm["name"], arm["values"][name]) for arm in claim["arms"] if name in arm["values"]]
        lines += ["", f"  {name} ({arms[0][1]['better']} is better)"]
        width = max(len(each) for each, _ in arms)
        lines += [f"    {each.ljust(width)}  {_value(row)}" for each, row in arms]
    return lines


def _value(row: Figures) -> str:
    error, apart = row["standard_error"], row.get("difference")
    own = f"{row['mean']:.3f}" + ("" if error is None else f" ({error:.3f})")
    if apart is None:
        return own
    ends = "" if apart["low"] is None else f" ({apart['low']:+.3f} to {apart['high']:+.3f})"
    return f"{own}, {apart['mean']:+.3f}{ends} of the baseline"


def _row(arm: Figures) -> list[str]:
    effect = arm.get("effect")
    return [
        arm["name"],
        str(arm["epochs"]),
        share(arm["clean"]),
        share(arm["robust"]),
        share(arm["gap"], "+.1f"),
        f"{arm['seconds']['mean']:.0f}",
        f"{arm['step_ratio']['mean']:.1f}",
        points(effect) if effect else "",
        arm.get("verdict", "baseline"),
    ]


def share(figures: Figures, form: str = ".1f") -> str:
    """A mean over seeds in percent, its standard error in brackets."""
    error = figures["standard_error"]
    return f"{100 * figures['mean']:{form}}" + ("" if error is None else f" ({100 * error:.1f})")


def points(figures: Figures) -> str:
    """A difference in points, its interval in brackets."""
    ends = ""
    if figures.get("low") is not None:
        ends = f" ({100 * figures['low']:+.1f} to {100 * figures['high']:+.1f})"
    return f"{100 * figures['difference']:+.1f}{ends}"
