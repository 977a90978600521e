"""The page's content: headline, comparison, and the sections in the order in which a reader asks for them."""

from collections.abc import Sequence

from sparring.report import account, accuracy, behaviour, facts, plots, words
from sparring.report.blocks import Block, Card, Cell, Figure, Figures, Heading, Headline, Page, Section, Table, Text
from sparring.report.facts import Group
from sparring.report.read import FORMAT, Estimate, Run, count, find, mapping, number, text
from sparring.report.unmeasured import unmeasured

INTERVALS = (
    "Intervals are 95 % and come from the finite number of examples. They do not include how much accuracy varies "
    "between trainings with different seeds."
)


def assemble(runs: Sequence[Run], *, seed: int) -> Page:
    """The report about these runs. `seed` draws the examples that are shown."""
    groups = facts.groups(runs)
    missing = unmeasured(runs)
    plan: list[tuple[str, str, list[Block]]] = [
        ("comparison", "Comparison", _comparison(groups)),
        ("attacks", "Accuracy under every attack", accuracy.attacks(groups)),
        ("budget", "Accuracy as the attacker’s budget grows", accuracy.budget(groups)),
        ("training", "Training", behaviour.training(runs)),
        ("calibration", "Calibration", behaviour.calibration(runs)),
        ("examples", "Adversarial examples", behaviour.gallery(runs, seed)),
        ("cost", "Cost", account.cost(runs)),
        ("checks", "Checks on the evaluation", account.checks(runs)),
        ("configuration", "Configuration and reproduction", account.configuration(runs)),
        ("unmeasured", "What was not measured", account.unmeasured(missing)),
    ]
    cards = [_card(run) for run in runs]
    return Page(
        title="Robustness report",
        subtitle=_subtitle(runs, groups),
        cards=cards,
        sections=[Section(*part) for part in plan],
        summary={
            "format": FORMAT,
            "runs": [_summary(run, card) for run, card in zip(runs, cards, strict=True)],
            "groups": [{"title": group.title, "runs": [run.letter for run in group.runs]} for group in groups],
            "not_measured": missing,
        },
    )


def _subtitle(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    many = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    if len(groups) == 1:
        return f"{many} on {groups[0].title}"
    return f"{many} in {len(groups)} groups that do not compare: {'; '.join(group.title for group in groups)}"


def _card(run: Run) -> Card:
    about = f"{facts.data(run)} · {words.threat_name(facts.threat(run))}"
    if (seed := count(run.record, "seed")) is not None:
        about += f" · seed {seed}"
    numbers = (_headline("Clean accuracy", facts.clean(run)), _headline(facts.worst_label(run), facts.worst(run)))
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
    for check in facts.failed(run):
        said = ": ".join(part for part in (text(check, "name") or "unnamed", text(check, "figure")) if part)
        found.append(f"A check failed ({said}). The accuracy under attack may be overstated.")
    if refused := facts.refused(run):
        found.append(f"{words.whole(refused)} adversarial examples lay outside the threat model and were refused.")
    return found


def _comparison(groups: Sequence[Group]) -> list[Block]:
    blocks: list[Block] = [Text(INTERVALS)]
    if len(groups) > 1:
        blocks.append(
            Text(
                "These runs do not all share one data set and one threat model, so they are shown in groups. "
                "Numbers from different groups must not be compared.",
                note=True,
            )
        )
    for i, group in enumerate(groups):
        if len(groups) > 1:
            blocks.append(Heading(group.title))
        if figure := _trade_off(group, i):
            blocks.append(Figures((figure,)))
        blocks.append(_overview(group))
    return blocks


def _trade_off(group: Group, i: int) -> Figure | None:
    points = []
    for run in group.runs:
        clean, worst = facts.clean(run), facts.worst(run)
        if clean is not None and worst is not None:
            points.append((facts.mark(run), clean, worst))
    if len(points) < 2:
        return None
    said = "; ".join(f"{m.name}: clean {words.share(c)}, worst case {words.share(w)}" for m, c, w in points)
    svg = plots.trade_off(f"tradeoff{i}", f"Clean against worst-case accuracy. {said}.", points)
    caption = f"Clean against worst-case accuracy on {group.title}. Up and right is better; bars are 95 % intervals."
    return Figure(svg, caption, [m for m, _, _ in points])


def _overview(group: Group) -> Table:
    head = ["Run", "Clean accuracy", "Worst case", "n", "Checks", "Step cost", "Kept epoch", "Seed"]
    rows = []
    for run in group.runs:
        checks, clean, worst = facts.checks(run), facts.clean(run), facts.worst(run)
        failed = len(facts.failed(run))
        verdict = (
            Cell(f"{failed} of {len(checks)} failed", "bad") if failed else Cell(f"all {len(checks)} passed", "good")
        )
        ratio, epoch = number(run.record, "timing", "step_ratio"), count(run.record, "best", "epoch")
        seed = find(run.record, "seed")
        n = clean.n if clean else worst.n if worst else None
        rows.append(
            [
                Cell(run.name, mark=facts.mark(run)),
                Cell(words.share(clean), share=clean),
                Cell(words.share(worst), share=worst),
                Cell(words.whole(n)),
                verdict if checks else Cell("none run", "quiet"),
                Cell("–" if ratio is None else f"{ratio:.1f} ×"),
                Cell("–" if epoch is None else str(epoch)),
                Cell("–" if seed is None else words.plain(seed)),
            ]
        )
    caption = f"Runs on {group.title}. Step cost: a multiple of a step of standard training."
    return Table(caption, [Cell(title) for title in head], rows)


def _summary(run: Run, card: Card) -> dict[str, object]:
    """The run for machines: what the record says, less the long lists, with the report's own findings."""
    record = run.record
    kept = ("system", "status", "seed", "config", "training", "data", "model", "best", "timing", "command", "commit")
    summary: dict[str, object] = {"letter": run.letter, "name": run.name, "folder": run.folder.name}
    summary |= {key: record.get(key) for key in (*kept, "versions", "hardware")}
    evaluation = mapping(record, "evaluation")
    summary["evaluation"] = dict(evaluation) if evaluation else None
    summary["sentence"] = card.sentence
    summary["warnings"] = list(card.warnings)
    return {key: words.finite(value) for key, value in summary.items()}
