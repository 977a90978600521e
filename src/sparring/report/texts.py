"""Classifiers of texts under attack: what falls, what it took, and for a filter the false alarms beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text, Tone
from sparring.report.read import Run, estimate, mapping, number, text

NAMES = {
    "clean": "No attack",
    "greedy-deletion": "Words exchanged, most important first",
    "greedy-saliency": "Words exchanged, by saliency and gain",
    "genetic": "Words exchanged, by a population",
    "characters": "Words misspelt",
    "append": "Harmless words behind the text",
    "worst": "Whichever of these succeeds",
    "certified": "Proved: no exchange of words changes the answer",
}
BESIDE = "PGD on embeddings, which no text can do"
ALARMS = {
    "all": "All benign texts",
    "identity terms": "Those with words for groups of people",
    "look-alikes": "Those with a word that marks harmful texts",
}


def is_text(run: Run) -> bool:
    """Whether the run was evaluated as a classifier of texts."""
    return text(run.record, "evaluation", "domain") == "text"


def attacks(runs: Sequence[Run]) -> list[Block]:
    """For each text run its tables; nothing where there is none."""
    shown = [run for run in runs if is_text(run)]
    if not shown:
        return []
    blocks: list[Block] = [
        Text(
            "An attack succeeds on a text that is answered right as it is. Every text that an attack made was held to "
            "what it may do, by a check that shares no code with the search, and asked about again."
        )
    ]
    for run in shown:
        if len(shown) > 1:
            blocks.append(Heading("", facts.mark(run)))
        blocks += [_table(run), *_alarms(run)]
    return blocks


def _table(run: Run) -> Table:
    found = facts.results(run)
    rows = [_row(NAMES.get(name, name), mapping(found, name), "strong" if name == "worst" else "") for name in found]
    if beside := mapping(run.record, "evaluation", "embedding"):
        rows.append(_row(BESIDE, beside, "quiet"))
    what = "Harmful texts detected" if _is_filter(run) else "Accuracy"
    head = ["Attack", what, "Attack success", "Queries a text", "Words changed where it succeeds"]
    return Table("Attacks on the text, 95 % intervals", [Cell(each) for each in head], rows)


def _row(name: str, one: Mapping[str, Any], tone: Tone) -> list[Cell]:
    e, success = estimate(one), estimate(one.get("success"), "rate")
    queries, changed = number(one, "queries"), number(one, "changed")
    return [
        Cell(name, tone),
        Cell(words.share(e), tone, share=e),
        Cell("" if success is None else words.share(success), tone),
        Cell("" if queries is None else f"{queries:,.0f}", tone),
        Cell("" if changed is None else words.percent(changed), tone),
    ]


def _alarms(run: Run) -> list[Block]:
    """The false alarms of a filter, without which its detection says nothing."""
    if not _is_filter(run):
        return []
    found = mapping(run.record, "evaluation", "false_positives")
    rows = []
    for name, title in ALARMS.items():
        if (e := estimate(found.get(name))) is not None:
            rows.append([Cell(title), Cell(words.share(e)), Cell(words.whole(e.n))])
    threshold = number(run.record, "evaluation", "threshold")
    caption = f"False alarms on benign test texts, at the threshold {threshold:.4g} fixed on others"
    return [Table(caption, [Cell(each) for each in ("Benign texts", "Flagged", "n")], rows)]


def _is_filter(run: Run) -> bool:
    return number(run.record, "evaluation", "threshold") is not None
