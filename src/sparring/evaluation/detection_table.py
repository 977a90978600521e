"""The evaluation of a detector as a table in plain text."""

from typing import Any

NAMES = {
    "clean": "as they came",
    "capgd": "CAPGD",
    "transfer": "transfer",
    "search": "search",
    "generated": "generated flows",
    "idsgan": "IDSGAN",
    "worst": "worst case",
}
"""The attacks, as a reader calls them."""

MOST = 24
"""Attacks by name that a terminal shows; the record has all of them."""


def table(evaluation: dict[str, Any]) -> str:
    """Detection with intervals, clean and attacked, and the checks."""
    detector, threat = evaluation["detector"], evaluation["threat"]
    lines = [
        f"{detector_in_words(detector)}; {evaluation['n']} malicious flows attacked within eps {threat['eps']:g} of "
        f"scaled space, schema {threat['schema']}; % detected with 95 % intervals",
        f"threshold fixed at {100 * detector['false_positives']:g} % false alarms on {detector['held_out']} benign "
        f"training flows held out; false alarms on the test: {share(evaluation['false_alarms'])}",
        "",
    ]
    lines += [_line(NAMES.get(name, name), share(each, "accuracy")) for name, each in evaluation["results"].items()]
    lines += ["", "  feasible flows, by radius"]
    lines += [_line(f"eps {each['eps']:g}", share(each, "accuracy")) for each in evaluation["eps_grid"]]
    lines += ["", "  rows that nobody could send (any number within eps), for contrast"]
    lines += [_line(f"eps {each['eps']:g}", share(each, "accuracy")) for each in evaluation["unconstrained"]]
    lines += ["", _columns("at false alarms of", "as they came", "worst case", "false alarms on the test")]
    for name, each in evaluation["at_rates"].items():
        lines.append(_columns(name, *(share(each[key]) for key in ("clean", "attacked", "false_alarms"))))
    areas = evaluation["auroc"]
    lines.append(_columns("AUROC", *(area(areas[state]) for state in ("clean", "attacked"))))
    lines += ["", *_parts(evaluation), ""]
    for check in evaluation["checks"]:
        lines.append(f"  {check['verdict']:<5}{check['name']:<20}{check['figure']}")
        if check["verdict"] == "fail":
            lines.append(f"       -> {check['advice']}")
    if bound := evaluation["suite"]["bound"]:
        lines += ["", f"  {bound}"]
    return "\n".join(lines)


def share(result: dict[str, Any] | None, key: str = "rate") -> str:
    """`93.3 %  (90.6 to 95.3)`."""
    if result is None:
        return "-"
    interval = f"({100 * result['low']:.1f} to {100 * result['high']:.1f})"
    return f"{100 * result[key]:5.1f} %  {interval}"


def area(result: dict[str, Any]) -> str:
    """`0.953  (0.951 to 0.956)`."""
    return f"{result['value']:7.3f}  ({result['low']:.3f} to {result['high']:.3f})"


def detector_in_words(detector: dict[str, Any]) -> str:
    """`mlp with autoencoder behind it`."""
    behind = f" with {' and '.join(detector['layers'])} behind it" if detector["layers"] else ""
    return f"detector {detector['spec']}{behind}"


def _parts(evaluation: dict[str, Any]) -> list[str]:
    """By class of attack, by whether training saw the type, and by name."""
    lines = [_columns("by type of attack", "as they came", "worst case", "n", "all of the test, as they came")]
    names = evaluation["names"]
    kinds = {} if set(evaluation["kinds"]) == set(names) else evaluation["kinds"]
    lines += [_part(name, each) for name, each in kinds.items()]
    lines += [_part(f"{name} in training", each) for name, each in evaluation["types"].items()]
    shown = sorted(names, key=lambda name: (names[name]["kind"], name))
    lines += [_part(f"  {name}{'' if names[name]['seen'] else ' (unseen)'}", names[name]) for name in shown[:MOST]]
    return lines + ([f"    and {len(shown) - MOST} more in the record"] if len(shown) > MOST else [])


def _part(name: str, each: dict[str, Any]) -> str:
    n = each["attacked"]["n"] if each["attacked"] else 0
    every = f"{share(each['all'])}, n {each['all']['n']}"
    return _columns(name, share(each["clean"]), share(each["attacked"]), str(n), every)


def _line(name: str, text: str) -> str:
    return f"  {name:<24}{text}"


def _columns(first: str, *cells: str) -> str:
    """A count takes less room than a share."""
    widths = [6 if cell.isdigit() or cell == "n" else 26 for cell in cells]
    return (f"  {first:<24}" + "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))).rstrip()
