"""Numbers and names as a reader wants them: percentages with intervals, threat models in words, attacks by name."""

import re
from collections.abc import Mapping
from typing import Any

from sparring.report.read import Estimate, find, is_number, number, text

NORMS = {"linf": "L-infinity", "l2": "L2", "l1": "L1", "l0": "L0"}
ATTACKS = {
    "clean": "No attack",
    "worst": "Worst case",
    "certified": "Certified",
    "fgsm": "FGSM",
    "apgd-ce": "APGD, cross-entropy",
    "apgd-dlr": "APGD, DLR",
    "apgd-t": "APGD, targeted",
    "fab-t": "FAB, targeted",
    "square": "Square",
}
LOSSES = {
    "cross_entropy": "cross-entropy",
    "margin": "margin",
    "dlr": "DLR",
    "kl": "KL",
    "targeted dlr": "targeted DLR",
}
SHRINKING = ("apgd", "targeted apgd")
"""Attacks whose step size is only that of their first steps."""
FAMILIES = ("pgd", "fgsm", "apgd", "mim", "cw", "fab", "nes", "spsa")


def percent(share: float) -> str:
    """0.9333 -> "93.3 %"."""
    return f"{100 * share:.1f} %"


def interval(e: Estimate) -> str:
    """ "90.6 to 95.3", or "" where the record has no interval."""
    return "" if e.low is None or e.high is None else f"{100 * e.low:.1f} to {100 * e.high:.1f}"


def share(e: Estimate | None) -> str:
    """ "93.3 % (90.6 to 95.3)"; "–" where there is nothing to say."""
    if e is None:
        return "–"
    return percent(e.value) + (f" ({interval(e)})" if interval(e) else "")


def error(e: Estimate | None) -> str:
    """A calibration error, or another figure that is no share, "0.021 (0.012 to 0.034)"."""
    if e is None:
        return "–"
    ends = "" if e.low is None or e.high is None else f" ({e.low:.3f} to {e.high:.3f})"
    return f"{e.value:.3f}{ends}".replace("-", "−")


def points(share: float, low: float | None, high: float | None) -> str:
    """A difference of two accuracies in percentage points, "+64.0 (+55.1 to +72.0)"."""
    ends = "" if low is None or high is None else f" ({signed(100 * low, 1)} to {signed(100 * high, 1)})"
    return f"{signed(100 * share, 1)}{ends}"


def signed(value: float, digits: int) -> str:
    """-1.26 -> "−1.3", with a sign in front of what is above zero, too."""
    value = round(value, digits) or 0.0
    return f"{value:{'+' if value else ''}.{digits}f}".replace("-", "−")


def chance(p: float) -> str:
    """A p-value: "< 0.001", "0.042"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def whole(n: float | None) -> str:
    """12345 -> "12,345"; "–" for None."""
    return "–" if n is None else f"{n:,.0f}"


def duration(seconds: float | None) -> str:
    """31.24 -> "31.2 s", 312 -> "5 min 12 s", 11000 -> "3 h 3 min"."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def radius(eps: float) -> str:
    """eps in input units, as a fraction of 255 where that is what was meant: 0.0313725 -> "8/255"."""
    steps = eps * 255
    if round(steps) >= 1 and abs(steps - round(steps)) < 1e-3 and len(f"{eps:.6g}") > 6:
        return f"{round(steps)}/255"
    return f"{eps:.4g}"


def plain(value: Any) -> str:
    """A value of a configuration, as a reader would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(inner) for inner in value)
    return str(value)


def norm(name: str) -> str:
    """ "linf" -> "L-infinity"."""
    return NORMS.get(name, name or "unknown norm")


def attack(name: str) -> str:
    """ "pgd-100-margin" -> "PGD-100, margin loss"; a name it does not know stays as it is."""
    if name in ATTACKS:
        return ATTACKS[name]
    family, *rest = name.split("-")
    if family not in FAMILIES or any(not re.fullmatch(r"\w+", part) for part in rest):
        return name
    loss = f", {LOSSES[rest[-1]]} loss" if rest and rest[-1] in LOSSES else ""
    return "-".join([family.upper(), *(rest[:-1] if loss else rest)]) + loss


def method(name: str) -> str:
    """A method of explanation: "integrated-gradients" -> "integrated gradients"."""
    return "Grad-CAM" if name == "grad-cam" else name.replace("-", " ").replace("_", " ")


def capital(words: str) -> str:
    """The same words with a capital first letter: "gradient" -> "Gradient"."""
    return words[:1].upper() + words[1:]


def settings(parameters: Mapping[str, Any]) -> str:
    """The settings that an attack's accuracy depends on, all of them, in one line."""
    said: list[str] = []
    seen = {"attack"}
    if loss := text(parameters, "loss"):
        said.append(f"{LOSSES.get(loss, loss)} loss")
        seen.add("loss")
    steps, size = number(parameters, "steps"), number(parameters, "step_size")
    if steps is not None:
        of = ", the first of" if text(parameters, "attack") in SHRINKING else " of"
        said.append(f"{steps:g} step{'s' * (steps != 1)}" + (f"{of} {radius(size)}" if size is not None else ""))
        seen |= {"steps"} | ({"step_size"} if size is not None else set())
    for key in ("queries", "targets", "draws", "locations"):
        if (many := number(parameters, key)) is not None:
            said.append(f"{many:,.0f} {key if many != 1 else key[:-1].replace('querie', 'query')}")
            seen.add(key)
    if isinstance(start := find(parameters, "random_start"), bool):
        said.append("random start" if start else "start at the input")
        seen.add("random_start")
    if (restarts := number(parameters, "restarts")) is not None:
        said.append(f"{restarts:g} run{'s' * (restarts != 1)}")
        seen.add("restarts")
    rest = [f"{key.replace('_', ' ')} {plain(value)}" for key, value in parameters.items() if key not in seen]
    return "; ".join(said + rest)


def threat_name(threat: Mapping[str, Any]) -> str:
    """ "L-infinity, eps 0.15"."""
    eps = number(threat, "eps")
    name = norm(text(threat, "norm"))
    members = find(threat, "members")
    if isinstance(members, list):
        name += " of " + " and ".join(threat_name(member) for member in members if isinstance(member, Mapping))
        return name
    if isinstance(inner := find(threat, "inner"), Mapping):
        return f"{name}: {threat_name(inner)}"
    if eps is not None and name == "appended text":
        return f"up to {whole(eps)} characters behind the data"
    return name if eps is None else f"{name}, eps {radius(eps)}"


def threat_clause(threat: Mapping[str, Any], thing: str) -> str:
    """What the attacker may do, for anybody: "each pixel may change by up to 0.15 of its range".

    Args:
        threat: norm, eps and the bounds of an input value.
        thing: what an input consists of, such as "pixel".
    """
    name, eps = text(threat, "norm"), number(threat, "eps")
    low, high = number(threat, "low"), number(threat, "high")
    if isinstance(inner := find(threat, "inner"), Mapping):
        part = number(threat, "share")
        where = f"a chosen {percent(part)} of the {thing}s" if part is not None else f"some of the {thing}s"
        return f"only {where} may change, and there {threat_clause(inner, thing)}"
    members = find(threat, "members")
    if isinstance(members, list) and name in ("union", "intersection"):
        clauses = [threat_clause(member, thing) for member in members if isinstance(member, Mapping)]
        return (" or " if name == "union" else " and at the same time ").join(clauses)
    if eps is None:
        return "the attacker is limited by a threat model that the record does not state"
    spread = high - low if low is not None and high is not None and high > low else 1.0
    limit = radius(eps / spread)
    match name:
        case "linf":
            return f"each {thing} may change by up to {limit} of its range"
        case "l2":
            return f"the changes to all {thing}s together may be up to {limit} long (Euclidean, {thing} range 1)"
        case "l1":
            return f"the changes to all {thing}s may add up to {limit} ({thing} range 1)"
        case "l0":
            return f"up to {whole(eps)} {thing}s may change freely"
        case "appended text":
            return f"the attacker may write up to {whole(eps)} characters behind the data"
    return f"the attacker is limited by {name or 'an unnamed norm'} with eps {radius(eps)}"


def sentence(clause: str) -> str:
    """The clause with a capital first letter and a full stop."""
    return clause[:1].upper() + clause[1:] + ("" if clause.endswith(".") else ".")


def listing(names: list[str], last: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}" if names else ""


def finite(value: Any) -> Any:
    """The same value with NaN and infinities as None, so that it is valid JSON."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return value if not isinstance(value, float) or is_number(value) else None
