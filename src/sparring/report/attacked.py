"""The page about one attack on the texts of a file: what fell, what it took, and the texts themselves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.evaluation.interval import wilson
from sparring.report import text_diffs, words
from sparring.report.blocks import Block, Card, Cell, Code, Headline, Mark, Page, Section, Table, Text, Tone
from sparring.report.read import Estimate
from sparring.report.text_diffs import Attacked

EACH = 40
"""Texts of each kind that the page shows."""


@dataclass(frozen=True)
class Account:
    """What is told of an attack on a file.

    Args:
        model, data: names.
        texts: one for each text, the outcome of the attack that decided it.
        attacks: what each attack did, by name: `fell`, `of`, `queries` and `changes` as means, `settings` in words.
        checks: see `sparring.evaluation.sanity.check`.
        notes: what the attacks drew from.
        warnings: what a reader should know first: rows set aside, texts cut, labels that the model gave.
        command: that made it.
        seed: draws which texts are shown.
    """

    model: str
    data: str
    texts: Sequence[Attacked]
    attacks: Mapping[str, Mapping[str, Any]]
    checks: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    warnings: Sequence[str]
    command: str
    seed: int


def assemble(account: Account) -> Page:
    """The page."""
    by_result = Counter(each.result for each in account.texts)
    n, right, standing = len(account.texts), by_result["fell"] + by_result["stands"], by_result["stands"]
    mark = Mark("A", account.model, 0)
    several = f"whichever of {len(account.attacks)} attacks is tried" if len(account.attacks) > 1 else "under attack"
    sentence = f"{account.model} gets {right:,} of {n:,} texts right; {standing:,} are still right {several}."
    numbers = [_headline("Right without an attack", right, n), _headline("Right under attack", standing, n)]
    plan: list[tuple[str, str, list[Block]]] = [
        (
            "attacks",
            "What each attack did",
            [_table(account), *([Text(" ".join(account.notes))] if account.notes else [])],
        ),
        ("fell", "Texts that fall", _shown(account, "fell")),
        ("stand", "Texts that stand", _shown(account, "stands")),
        ("checks", "Checks on the attack", [_checks(account)]),
        ("command", "Reproduction", [Code("This page", account.command)]),
    ]
    return Page(
        title="Attacked texts",
        subtitle=f"{account.model} on {account.data}",
        cards=[Card(mark, f"{account.data} · seed {account.seed}", sentence, numbers, account.warnings)],
        sections=[Section(*part) for part in plan if part[2]],
        summary={},
    )


def _headline(label: str, hits: int, n: int) -> Headline:
    if n == 0:
        return Headline(label, "–", ("no texts",))
    e = Estimate(hits / n, *wilson(hits, n), n)
    return Headline(label, words.percent(e.value), (words.interval(e), f"95 % interval, n = {words.whole(n)}"), e)


def _table(account: Account) -> Table:
    head = [Cell(name) for name in ("Attack", "Fell", "Words changed", "Queries", "Settings")]
    rows = []
    for name, told in account.attacks.items():
        fell, of = told["fell"], told["of"]
        share = Estimate(fell / of, *wilson(fell, of), of) if of else None
        rows.append([
            Cell(name),
            Cell(f"{fell:,} of {of:,}", share=share),
            Cell("–" if told["changes"] is None else f"{told['changes']:.1f}"),
            Cell(f"{told['queries']:,.0f}"),
            Cell(told["settings"]),
        ])  # fmt: skip
    return Table("Of the texts that were right; words and queries are means, words of the texts that fell", head, rows)


def _shown(account: Account, result: str) -> list[Block]:
    found = [each for each in account.texts if each.result == result]
    return [text_diffs.shown(found, EACH, account.seed)] if found else [Text("None.")]


def _checks(account: Account) -> Table:
    rows = []
    for each in account.checks:
        tone: Tone = "good" if each["verdict"] == "pass" else "bad"
        advice = "" if tone == "good" else str(each["advice"])
        rows.append(
            [Cell(str(each["name"])), Cell(str(each["verdict"]), tone), Cell(str(each["figure"]), detail=advice)]
        )
    return Table("What has to hold before the numbers above mean anything", [*map(Cell, ("Check", "", "Figure"))], rows)
