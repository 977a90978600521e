"""An evaluation as a table in plain text."""

from typing import Any


def table(evaluation: dict[str, Any]) -> str:
    """Accuracy with interval for every attack, the worst case, calibration and the checks."""
    suite = evaluation["suite"]
    said = "each attack on what stood before it" if suite["sequential"] else "every attack on every example"
    lines = [f"{threat_in_words(evaluation['threat'])}; {evaluation['n']} examples, 95 % intervals"]
    lines += [f"suite {suite['name']}: {said}", ""]
    for name, result in evaluation["results"].items():
        how = f"proved by {result['bound']}" if name == "certified" else parameters_in_words(result.get("parameters"))
        lines.append(f"  {name:<18}{share(result)}  {how}".rstrip())
    lines.append("")
    for name, result in evaluation["calibration"].items():
        interval = f"({100 * result['low']:.1f} to {100 * result['high']:.1f})"
        lines.append(f"  {'ECE ' + name:<18}{100 * result['ece']:5.1f} %  {interval}")
    lines.append("")
    for check in evaluation["checks"]:
        lines.append(f"  {check['verdict']:<5}{check['name']:<20}{check['figure']}")
        if check["verdict"] == "fail":
            lines.append(f"       -> {check['advice']}")
    for other in evaluation["others"]:
        lines += ["", table(other)]
    if evaluation["union"] is not None:
        lines += ["", f"  {'union':<18}{share(evaluation['union'])}  the adversary may choose among all of these"]
    if suite["bound"]:
        lines += ["", f"  {suite['bound']}"]
    return "\n".join(lines)


def beyond(extra: dict[str, Any]) -> str:
    """One line for each part beyond the ball that was measured; "" where none was."""
    lines = []
    for name, result in extra.get("unseen", {}).items():
        mark = " (trained against)" if result["trained"] else ""
        lines.append(f"  {name + mark:<26}{share(result)}".rstrip())
    if shift := extra.get("shift"):
        mce = "" if shift["mce"] is None else f", mCE {shift['mce']:.1%} of the reference's"
        lines.append(f"  {'corruptions, mean':<26}{share(shift)}".rstrip() + mce)
    if outside := extra.get("outside"):
        for name, score in outside["scores"].items():
            value = score["auroc"]
            interval = f"({value['low']:.3f} to {value['high']:.3f})"
            lines.append(f"  {'AUROC of ' + name:<26}{value['value']:7.3f}  {interval}  against {outside['data']}")
    for name, part in extra.get("temperature", {}).items():
        before, after = part["before"], part["after"]
        lines.append(
            f"  {'ECE ' + name + ', scaled':<26}{100 * after['ece']:5.1f} %  from {100 * before['ece']:.1f} % at "
            f"temperature {part['temperature']:.2f}, on {after['n']} held out"
        )
    for name, method in extra.get("explanations", {}).get("methods", {}).items():
        faithful = ", ".join(
            f"{state} {'faithful' if method[state]['faithful'] else 'no better than random order'}"
            for state in ("clean", "attacked")
        )
        stable = method["stability"]["same_class"]["cosine"]
        lines.append(f"  {name:<26}stability {stable['mean']:.2f} (chance {stable['control']['mean']:.2f}); {faithful}")
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
    """`100 steps of 0.00375 x 2 restarts, margin, random start`."""
    if parameters is None:
        return ""
    words = []
    if "queries" in parameters:
        words.append(f"{parameters['queries']} queries")
    if "steps" in parameters:
        size = f" of {parameters['step_size']:.4g}" if "step_size" in parameters else ""
        words.append(f"{parameters['steps']} step{'s' if parameters['steps'] > 1 else ''}{size}")
    for name in ("targets", "draws", "restarts"):
        if parameters.get(name, 1) > 1:
            words[-1] += f" x {parameters[name]} {name}"
    words.append(parameters["loss"])
    return ", ".join([*words, "random start"] if parameters.get("random_start") else words)
