"""The headline of a run on flows: what is detected, what still is under attack, and what is raised for nothing."""

from sparring.report import facts, flow_facts, words
from sparring.report.blocks import Card, Headline
from sparring.report.read import Estimate, Run, count, mapping, number, text


def card(run: Run) -> Card:
    """The headline of one run."""
    about = f"{facts.data(run)} · {flow_facts.detector(run)} · {flow_facts.threat_name(run)}"
    if (seed := count(run.record, "seed")) is not None:
        about += f" · seed {seed}"
    numbers = [
        _headline("Detected as they came", facts.clean(run)),
        _headline("Detected in the worst case", facts.worst(run)),
        _headline("False alarms on the test", flow_facts.false_alarms(run)),
        _headline("AUROC in the worst case", flow_facts.area(run, "attacked"), whole=False),
    ]
    return Card(facts.mark(run), about, _sentence(run), numbers if flow_facts.evaluation(run) else (), _warnings(run))


def _headline(label: str, e: Estimate | None, *, whole: bool = True) -> Headline:
    if e is None:
        return Headline(label, "–", ("not measured",))
    n = f"n = {words.whole(e.n)}" if e.n is not None else ""
    value = words.percent(e.value) if whole else f"{e.value:.3f}"
    ends = words.interval(e) if whole else "" if e.low is None or e.high is None else f"{e.low:.3f} to {e.high:.3f}"
    named = ", ".join(part for part in ("95 % interval" if ends else "", n) if part)
    return Headline(label, value, tuple(part for part in (ends, named) if part), e)


def _sentence(run: Run) -> str:
    clean, worst = facts.clean(run), facts.worst(run)
    if clean is None or worst is None or not clean.n:
        return f"What {run.name} detects has not been measured."
    eps, fields = number(facts.threat(run), "eps"), mapping(facts.threat(run), "fields")
    may = sum(len(fields[change]) for change in ("up", "down", "free") if isinstance(fields.get(change), list))
    columns = f"{may} columns" if may else "some columns"
    radius = f"by up to {eps:g} of its range" if eps is not None else ""
    still = words.whole(round(worst.value * clean.n))
    said = (
        f"{run.name} raises an alarm on {words.whole(round(clean.value * clean.n))} of {words.whole(clean.n)} "
        f"malicious test flows. When their sender may change {columns}, each {radius}, and send only what could be "
        f"sent, {still} still raise one whichever of {len(facts.attacks(run))} attacks is tried."
    )
    raised = flow_facts.false_alarms(run)
    return said if raised is None else f"{said} Of the benign flows {words.percent(raised.value)} raise one too."


def _warnings(run: Run) -> list[str]:
    found = []
    if facts.status(run) != "done":
        found.append(f"Training is not complete: the record’s status is “{facts.status(run)}”.")
    if not flow_facts.evaluation(run):
        found.append("There is no evaluation. Run “sparring evaluate” on this run’s folder before quoting anything.")
        return found
    for check in facts.failed(run):
        said = ": ".join(part for part in (text(check, "name") or "unnamed", text(check, "figure")) if part)
        found.append(f"A check failed ({said}). Detection under attack may be overstated.")
    raised, promised = flow_facts.false_alarms(run), flow_facts.promised(run)
    if raised is not None and raised.low is not None and promised is not None and raised.low > promised:
        found.append(
            f"The threshold was fixed at {words.percent(promised)} false alarms on training flows held out; of the "
            f"test’s benign flows {words.share(raised)} raise one. They are not like those of training: fix the "
            "threshold on traffic of your own."
        )
    if bound := text(flow_facts.evaluation(run), "suite", "bound"):
        found.append(bound)
    return found
