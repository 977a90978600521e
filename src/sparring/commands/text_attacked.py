"""What a battery found, text by text: which attack decides it, and how it is written down."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sparring.commands.text_input import Given
from sparring.domains.text.artefact import Classifier
from sparring.domains.text.gain import TextGain
from sparring.domains.text.records import Aside
from sparring.domains.text.words import Text
from sparring.engine import checkpoint
from sparring.evaluation.discrete import Battery, DiscreteChallenge
from sparring.report import words
from sparring.report.text_diffs import FILE, Attacked, Result, drawn, marked, to_json

KEPT = 200
"""Attacked texts that a run folder keeps for its report."""

COLUMNS = (
    "line", "outcome", "attack", "label", "answer_before", "answer_after", "score_before", "score_after",
    "words_changed", "queries", "original", "attacked", "marked",
)  # fmt: skip
"""Of the CSV file. A score is the model's probability of the label; `marked` shows each change as [old→new]."""


def decided(classifier: Classifier, gain: TextGain, rows: Given, found: Battery[Text]) -> list[Attacked]:
    """One account of each text: of the attack that took it with the fewest changes, then with the fewest queries; of
    one that stands, of the attack that came nearest.

    Args:
        classifier: what was attacked.
        gain: what the attacks climbed, over the same texts.
        rows: the texts.
        found: what the attacks did.
    """
    names, every = list(found.outcomes), range(len(rows.strings))
    chosen = [_chosen(found, i) for i in every]
    before = [Text.of(string) for string in rows.strings]
    after = [
        text if k is None else found.outcomes[names[k]].z[i]
        for i, (text, k) in enumerate(zip(before, chosen, strict=True))
    ]
    answers, later = (gain.logits(texts, every).argmax(1).tolist() for texts in (before, after))
    score, then = (
        classifier.probabilities([str(text) for text in texts])[torch.arange(len(texts)), gain.y].tolist()
        for texts in (before, after)
    )
    held = []
    for i, k in enumerate(chosen):
        outcome = None if k is None else found.outcomes[names[k]]
        result: Result = "wrong" if outcome is None else "stands" if bool(outcome.right[i]) else "fell"
        held.append(
            Attacked(
                line=rows.numbers[i],
                label=classifier.classes[int(gain.y[i])],
                result=result,
                attack="" if k is None else names[k],
                original=rows.strings[i],
                attacked=str(after[i]),
                before=classifier.classes[answers[i]],
                after=classifier.classes[later[i]],
                score_before=score[i],
                score_after=then[i],
                changes=0 if outcome is None else int(outcome.changes[i]),
                queries=0 if outcome is None else int(outcome.queries[i]),
            )
        )
    return held


def keep(folder: Path, texts: Sequence[Attacked], seed: int) -> None:
    """Leave some of the texts, drawn by the seed, in a run folder for its report."""
    checkpoint.write(folder / FILE, to_json(drawn(texts, KEPT, seed)).encode())


def _chosen(found: Battery[Text], i: int) -> int | None:
    """The attack that decides text i; None for one that was wrong before."""
    if not bool(found.clean[i]):
        return None
    outcomes = list(found.outcomes.values())
    fell = [
        (int(each.changes[i]), int(each.queries[i]), k) for k, each in enumerate(outcomes) if not bool(each.right[i])
    ]
    if fell:
        return min(fell)[2]
    return max(range(len(outcomes)), key=lambda k: float(outcomes[k].value[i]))


def summaries(found: Battery[Text], tried: Sequence[DiscreteChallenge[Text]]) -> dict[str, dict[str, Any]]:
    """Of each attack: how many of the texts that were right fell, mean queries, mean changes of those that fell."""
    told = {}
    for each in tried:
        outcome = found.outcomes[each.name]
        fell, of = found.clean & ~outcome.right, int(found.clean.sum())
        told[each.name] = {
            "fell": int(fell.sum()),
            "of": of,
            "queries": outcome.queries[found.clean].double().mean().item() if of else 0.0,
            "changes": outcome.changes[fell].double().mean().item() if bool(fell.any()) else None,
            "seconds": round(outcome.seconds, 3),
            "parameters": each.parameters,
        }
    return told


def settings(parameters: Mapping[str, Any]) -> str:
    """What an attack's success depends on, in one line."""
    said = []
    for name, value in parameters.items():
        if name == "pool":
            said.append(f"{len(value)} words")
        elif isinstance(value, Mapping):
            said.append(f"{name} {value.get('source', '')}".strip())
        else:
            said.append(f"{name.replace('_', ' ')} {words.plain(value)}")
    return ", ".join(said)


def as_csv(texts: Sequence[Attacked]) -> bytes:
    """The lines of `COLUMNS`, UTF-8."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in texts:
        writer.writerow((
            each.line, each.result, each.attack, each.label, each.before, each.after, f"{each.score_before:.6g}",
            f"{each.score_after:.6g}", each.changes, each.queries, each.original, each.attacked,
            marked(each.original, each.attacked),
        ))  # fmt: skip
    return out.getvalue().encode(errors="backslashreplace")


def aside_csv(rows: Sequence[Aside]) -> bytes:
    """Rows that were set aside, with reasons."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("line", "reason"))
    writer.writerows((each.row, each.reason) for each in rows)
    return out.getvalue().encode(errors="backslashreplace")
