"""The headline: each run in one sentence and its few big numbers, with what to read with care."""

from sparring.report import facts, words
from sparring.report.blocks import Card, Headline
from sparring.report.read import Estimate, Run, count, mapping, number, text


def card(run: Run) -> Card:
    """The headline of one run."""
    about = f"{facts.data(run)} · {words.threat_name(facts.threat(run))}"
    if (seed := count(run.record, "seed")) is not None:
        about += f" · seed {seed}"
    if suite := facts.suite(run):
        about += f" · suite “{suite.name}”"
    numbers = [_headline("Clean accuracy", facts.clean(run)), _headline(facts.worst_label(run), facts.worst(run))]
    if (union := facts.union(run)) is not None:
        numbers.append(_headline(f"Under the union of {len(facts.views(run))} threat models", union))
    return Card(facts.mark(run), about, _sentence(run), numbers if facts.evaluated(run) else (), _warnings(run))


def _headline(label: str, e: Estimate | None) -> Headline:
    if e is None:
        return Headline(label, "–", ("not measured",))
    n = "" if e.n is None else f"n = {words.whole(e.n)}"
    if not words.interval(e):
        return Headline(label, words.percent(e.value), tuple(part for part in ("no interval recorded", n) if part), e)
    named = ", ".join(part for part in ("95 % interval", n) if part)
    return Headline(label, words.percent(e.value), (words.interval(e), named), e)


def _sentence(run: Run) -> str:
    """What the run is worth, in one sentence and in whole examples."""
    clean, worst = facts.clean(run), facts.worst(run)
    clause = words.threat_clause(facts.threat(run), facts.thing(run))
    tried = len(facts.attacks(run))
    several = f"whichever of {tried} attacks is tried" if tried > 1 else "under the one attack tried"
    if clean is None and worst is None:
        attack = f"when {clause}" if number(facts.threat(run), "eps") is not None else "under attack"
        return f"How well {run.name} does {attack} has not been measured."
    if worst is None:
        return f"{run.name} gets {_so_many(run, clean)} right; it has not been attacked."
    if clean is None:
        return f"When {clause}, {run.name} gets {_so_many(run, worst)} right {several}."
    still = words.whole(round(worst.value * worst.n)) if worst.n == clean.n and worst.n else words.percent(worst.value)
    return f"{run.name} gets {_so_many(run, clean)} right. When {clause}, {still} are still right {several}."


def _so_many(run: Run, e: Estimate | None) -> str:
    if e is None:
        return "an unknown number"
    if not e.n:
        return f"{words.percent(e.value)} of the {facts.examples(run, None)}"
    return f"{words.whole(round(e.value * e.n))} of {facts.examples(run, e.n)}"


def _warnings(run: Run) -> list[str]:
    found = []
    if facts.status(run) != "done":
        found.append(f"Training is not complete: the record’s status is “{facts.status(run)}”.")
    if not mapping(run.record, "evaluation"):
        found.append("There is no evaluation. Run “sparring evaluate” on this run’s folder before quoting anything.")
    elif not facts.evaluated(run):
        found.append("The evaluation holds no accuracy.")
    views = facts.views(run)
    for view in views:
        under = f" under {words.threat_name(facts.threat(view))}" if len(views) > 1 else ""
        for check in facts.failed(view):
            said = ": ".join(part for part in (text(check, "name") or "unnamed", text(check, "figure")) if part)
            found.append(f"A check failed{under} ({said}). The accuracy under attack may be overstated.")
    if refused := sum(facts.refused(view) for view in views):
        found.append(f"{words.whole(refused)} adversarial examples lay outside the threat model and were refused.")
    return found
