"""`sparring evaluate RUN` of a text classifier: what is left of it under attacks on its texts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from safetensors.torch import save
from torch import Tensor

from sparring.commands.answering import evaluated, one_folder
from sparring.commands.evaluate import OUTCOMES
from sparring.commands.flags import say
from sparring.commands.text_attacked import decided, keep
from sparring.commands.text_battery import Budget, gain_of
from sparring.commands.text_input import Given
from sparring.commands.text_material import Material, Where, prepared
from sparring.commands.text_measured import as_record, measured
from sparring.core.seeds import derive
from sparring.domains.text import artefact
from sparring.domains.text.artefact import Classifier
from sparring.engine import checkpoint, record


@dataclass(frozen=True)
class Flags:
    """Measure what is left of a text classifier on its test set when its texts are attacked: words exchanged (three
    searches), misspelt, harmless words appended, the worst of all for each text, and beside it PGD on embeddings. Every
    text that an attack makes is verified. Of a filter (moderation) harmful texts are attacked, and false alarms on
    benign ones stand beside every figure."""

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """The run folder."""
    examples: int = 500
    """Test texts to attack, drawn by the seed; 0 attacks all."""
    words: float = 0.2
    """Share of a text's words that may be exchanged, and misspelt, in (0, 1]."""
    append: int = 9
    """Harmless words behind it, at most."""
    eps: float = 0.1
    """Radius of PGD on embeddings, in mean embedding norms."""
    genetic: bool = True
    """Also the population search, which takes longest."""
    folding: Literal["as-trained", "on", "off"] = "as-trained"
    """Undo look-alike letters in front of the classifier. The attacks see it."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default where training found them, or SPARRING_DATA."""
    run: Path | None = None
    """The run folder, as a flag."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""
    fail_on_check: bool = False
    """Exit with 1 when a check fails."""

    def __post_init__(self) -> None:
        for name, holds, limits in (
            ("examples", self.examples >= 0, "an int in the range [0, inf)"),
            ("append", self.append >= 1, "an int in the range [1, inf)"),
            ("words", 0 < self.words <= 1, "a number in the range (0, 1]"),
            ("eps", 0 < self.eps < float("inf"), "a number in the range (0, inf)"),
        ):
            if not holds:
                raise ValueError(f"The {name!r} parameter must be {limits}. Got {getattr(self, name)!r} instead.")

    def budget(self, most: int) -> Budget:
        """What the attacker may do."""
        return Budget(
            words=self.words, characters=self.words, most=most, append=self.append, eps=self.eps, genetic=self.genetic
        )


def run(arguments: Sequence[str]) -> int:
    """Evaluate, and return the exit code."""
    return evaluated(arguments, Flags, evaluate, table)


def evaluate(flags: Flags, command: str) -> record.Record:
    """Evaluate, and write the evaluation into the run's record.

    Raises:
        RecordError, ArtefactError, DataError, ValueError: where the folder holds no text run, or the data is not what
            the run saw.
    """
    folder, start = one_folder(flags.folder, flags.run), time.perf_counter()
    facts = record.read(folder)
    classifier = artefact.load(folder / artefact.FILE)
    if flags.folding != "as-trained":
        classifier = replace(classifier, folding=flags.folding == "on")
    made = material_of(facts, classifier, flags.data_root)
    rows = drawn(made, classifier, flags.examples, flags.seed)
    say(f"evaluating a classifier of texts on {made.data.name}: {len(rows)} test texts attacked")
    budget = flags.budget(made.most)
    found = measured(classifier, made, made.data.test, rows, budget, flags.seed)
    evaluation = as_record(found, budget) | {
        "split": "test",
        "seed": flags.seed,
        "weights": artefact.FILE,
        "folding": classifier.folding,
        "threshold": classifier.threshold,
        "seconds": time.perf_counter() - start,
        "command": command,
    }
    checkpoint.write(folder / OUTCOMES, save({"rows": rows, **found.outcomes}))
    test = made.data.test.subset(rows)
    given = Given(test.rows.tolist(), list(test.strings), test.y.tolist(), [])
    keep(folder, decided(classifier, gain_of(classifier, test.y), given, found.found), flags.seed)
    facts = record.read(folder)
    facts["evaluation"] = evaluation
    record.write(folder, facts)
    return evaluation


def material_of(facts: record.Record, classifier: Classifier, root: Path | None) -> Material:
    """The data, tokenizer and substitutes of a run, as they were.

    Raises:
        ValueError: where they are others.
    """
    told: dict[str, Any] = facts["text"]
    place = root or (None if facts.get("data_root") is None else Path(facts["data_root"]))
    names = ("data", "model", "tokenizer", "length", "neighbours", "most", "folding")
    where = Where(data_root=place, benign=tuple(told["benign"]), **{name: told[name] for name in names})
    made = prepared(where, facts["system"])
    for name, now, then in (
        ("data", made.data.fingerprint, facts["data"]["fingerprint"]),
        ("substitutes", made.neighbours.fingerprint, facts["data"]["neighbours"]["fingerprint"]),
        ("tokenizer", made.tokenizer.fingerprint, classifier.tokenizer.fingerprint),
    ):
        if now != then:
            raise ValueError(f"The {name} must be what the run saw (fingerprint {then[:12]}). Found {now[:12]}.")
    return made


def drawn(made: Material, classifier: Classifier, count: int, seed: int) -> Tensor:
    """Rows of the test set in their order, of harmful texts where there is a threshold."""
    test = made.data.test
    rows = torch.arange(len(test)) if classifier.threshold is None else (test.y == 1).nonzero().squeeze(1)
    if not 0 < count < len(rows):
        return rows
    chance = torch.Generator().manual_seed(derive(seed, "test texts"))
    return rows[torch.randperm(len(rows), generator=chance)[:count].sort().values]


def table(evaluation: record.Record) -> str:
    """What a terminal shows: accuracy after each attack, success on what was right, queries, share of words changed."""
    filter_of = evaluation.get("threshold") is not None
    what = "harmful texts detected" if filter_of else "accuracy"
    lines = [
        f"{evaluation['n']} {evaluation['split']} texts; {what}, % with 95 % interval",
        "",
        f"  {'':<17}{what:>24}{'attack success':>16}{'queries':>9}{'changed':>9}",
    ]
    for name, one in (*evaluation["results"].items(), ("embeddings, PGD", evaluation["embedding"])):
        success = one.get("success")
        cells = [
            f"{100 * one['accuracy']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})",
            "" if success is None else f"{100 * success['rate']:.1f}",
            f"{one['queries']:.0f}" if "queries" in one else "",
            f"{100 * one['changed']:.0f} %" if one.get("changed") is not None else "",
        ]
        lines.append(f"  {name:<17}{cells[0]:>24}{cells[1]:>16}{cells[2]:>9}{cells[3]:>9}")
    for name, one in evaluation.get("false_positives", {}).items():
        share = f"{100 * one['accuracy']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"
        lines.append(f"  false alarms, {name}: {share} of {one['n']} benign texts")
    lines.append("")
    for one in evaluation["checks"]:
        lines.append(f"  {one['verdict']:<5}{one['name']}: {one['figure']}")
    return "\n".join(lines)
