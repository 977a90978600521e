"""An evaluation as a table in plain text."""

from typing import Any


def table(evaluation: dict[str, Any]) -> str:
    """Accuracy with interval for every attack, the worst case, calibration and the checks."""
    lines = [f"{threat_in_words(evaluation['threat'])}; {evaluation['n']} examples, 95 % intervals", ""]
    for name, result in evaluation["results"].items():
        lines.append(f"  {name:<18}{share(result)}  {parameters_in_words(result.get('parameters'))}".rstrip())
    lines.append("")
    for name, result in evaluation["calibration"].items():
        interval = f"({100 * result['low']:.1f} to {100 * result['high']:.1f})"
        lines.append(f"  {'ECE ' + name:<18}{100 * result['ece']:5.1f} %  {interval}")
    lines.append("")
    for check in evaluation["checks"]:
        lines.append(f"  {check['verdict']:<5}{check['name']:<18}{check['figure']}")
        if check["verdict"] == "fail":
            lines.append(f"       -> {check['advice']}")
    return "\n".join(lines)


def share(result: dict[str, Any]) -> str:
    """`93.3 %  (90.6 to 95.3)`."""
    interval = f"({100 * result['low']:.1f} to {100 * result['high']:.1f})"
    return f"{100 * result['accuracy']:5.1f} %  {interval:<16}"


def threat_in_words(threat: dict[str, Any]) -> str:
    """`linf eps 0.15 in [0, 1]`; a composed threat by its kind."""
    bounds = f" in [{threat['low']:g}, {threat['high']:g}]" if "low" in threat else ""
    return f"{threat['norm']} eps {threat['eps']:.4g}{bounds}"


def parameters_in_words(parameters: dict[str, Any] | None) -> str:
    """`100 steps of 0.00375 x 2 restarts, margin`."""
    if parameters is None:
        return ""
    runs = f" x {parameters['restarts']}" if parameters["restarts"] > 1 else ""
    start = ", random start" if parameters["random_start"] else ""
    plural = "s" if parameters["steps"] > 1 else ""
    return f"{parameters['steps']} step{plural} of {parameters['step_size']:.4g}{runs}, {parameters['loss']}{start}"
