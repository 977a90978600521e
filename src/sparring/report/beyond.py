"""The section on what lies beyond the ball: threat models of other kinds, corruptions, and data from elsewhere."""

from collections.abc import Callable, Sequence

from sparring.report import corruptions, facts, unseen, verdicts, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text
from sparring.report.facts import Group
from sparring.report.read import Run, count, estimate, find, mapping, number, text

SCORES = {"softmax": "Largest probability", "energy": "Energy"}
"""What tells inside from outside, by its name in a record."""


def beyond(runs: Sequence[Run]) -> list[Block]:
    """What the robustness bought beyond the threat model that it was trained and measured in."""
    blocks: list[Block] = [
        Text(
            "A model that stands inside one ball may fall to a rotated, a blurred or an unknown picture. This section "
            "leaves the ball."
        ),
        *verdicts.blocks(runs),
    ]
    groups = facts.by_data(runs)
    for i, group in enumerate(groups):
        blocks += unseen.blocks(group, i)
    for group in groups:
        blocks += corruptions.blocks(group)
    for group in groups:
        blocks += _outside(group)
    return blocks + _lacking(runs)


def _lacking(runs: Sequence[Run]) -> list[Block]:
    """One note for all runs that lack the same parts."""
    parts: tuple[tuple[str, Callable[[Run], bool]], ...] = (
        ("threat models of other kinds", lambda run: bool(unseen.results(run))),
        ("corruptions", lambda run: bool(mapping(run.record, "evaluation", "shift"))),
        ("data from elsewhere", lambda run: bool(mapping(run.record, "evaluation", "outside"))),
    )
    absent: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        missing = tuple(what for what, has in parts if not has(run))
        if missing:
            absent.setdefault(missing, []).append(facts.label(run))
    return [
        Text(
            f"Not shown: the record of {words.listing(names)} holds no {words.listing(list(missing), 'or')}.", note=True
        )
        for missing, names in absent.items()
    ]


def _outside(group: Group) -> list[Block]:
    """How well the model's confidence tells its own data from another data set's."""
    rows = []
    for run in group.runs:
        part = mapping(run.record, "evaluation", "outside")
        for score, figures in mapping(part, "scores").items():
            auroc, fpr = estimate(find(figures, "auroc"), "value"), estimate(find(figures, "fpr95"), "value")
            if auroc is None and fpr is None:
                continue
            sure = [number(part, side, "mean_confidence") for side in ("inside", "outside")]
            counted = " and ".join(words.whole(count(part, key)) for key in ("n_in", "n_out"))
            rows.append(
                [
                    Cell(run.name, mark=facts.mark(run)),
                    Cell(text(part, "data") or "unnamed data"),
                    Cell(SCORES.get(score, score)),
                    Cell(words.error(auroc)),
                    Cell(words.share(fpr)),
                    Cell(
                        " / ".join("–" if value is None else words.percent(value) for value in sure),
                        detail=f"n = {counted}",
                    ),
                ]
            )
    if not rows:
        return []
    lead = Text(
        "The images of another data set have no right answer here. AUROC is the chance that the model is surer of one "
        "of its own images than of one from elsewhere: 0.5 is a coin, 1 is perfect. FPR95 is the share of the others "
        "that still pass when 95 % of its own do; lower is better. Confidence: the mean on its own, then on the others."
    )
    head = ["Run", "Other data", "Score", "AUROC", "FPR95", "Confidence"]
    title = f"How well confidence tells {group.title} from other data, with 95 % intervals."
    table = Table(title, [Cell(each) for each in head], rows)
    return [Heading(f"Telling {group.title} from other data"), lead, table]
