"""`sparring attack text MODEL --input FILE`: what attacks make of the texts of a file, as CSV and as a page."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from sparring.commands.flags import parse, say
from sparring.commands.progress import progress
from sparring.commands.text_attacked import as_csv, aside_csv, decided, keep, settings, summaries
from sparring.commands.text_attacker import NAMES, USUAL, Arsenal, arsenal
from sparring.commands.text_battery import Budget, gain_of
from sparring.commands.text_input import Given, given
from sparring.domains.text.artefact import FILE, Classifier, load
from sparring.domains.text.gain import TextGain
from sparring.domains.text.words import Text
from sparring.engine import checkpoint
from sparring.evaluation.discrete import Battery, battery, eval_mode, joined, never_falls, verified, watched
from sparring.evaluation.sanity import Check
from sparring.report import attacked, publish, text_diffs

CHUNK = 64
"""Texts that are attacked side by side."""

PATIENCE = 2.0
"""Seconds before the bar appears."""


@dataclass(frozen=True)
class Flags:
    """Attack the texts of a file: exchange words, misspell them, append harmless ones. Says of every text whether it
    falls, to what, and with how many words changed and queries asked; every attacked text is verified. Rows that cannot
    be used are set aside with their line numbers and reasons; nothing stops it."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The run folder of a text classifier, or its file."""
    input: Path
    """The texts: TSV, CSV, JSONL, JSON or parquet, with a column for the text and one for the label (the name of a
    class, or its number from 0). Without labels, what the model says of a text counts as right."""
    text: str | None = None
    """The column of the texts; by default the likeliest by name."""
    label: str | None = None
    """The column of the labels; by default the likeliest by name."""
    limit: int = 0
    """Texts to attack, the first ones; 0 attacks all."""
    attacks: tuple[str, ...] = USUAL
    """Some of greedy-deletion, greedy-saliency, greedy-gradient, hotflip, genetic and random, which exchange words;
    characters, which misspells them; append, which adds harmless ones."""
    queries: int | None = None
    """Texts that an attack may ask the model about, for each text, at most; by default as many as it likes."""
    words: float = 0.2
    """Share of a text's words that may be exchanged, or misspelt, in (0, 1]."""
    edits: int = 1
    """Character edits in a word, at most."""
    append: int = 9
    """Harmless words behind the text, at most."""
    neighbours: str | None = None
    """Substitutes: ppdb, wordnet, or a path of a table; by default those of the run, else ppdb."""
    most: int = 8
    """Substitutes of a word, at most."""
    data_root: Path | None = None
    """Folder that named data sets and ppdb are in; by default where training found them, or SPARRING_DATA."""
    out: Path | None = None
    """Where the table goes, as CSV; by default attacked.csv in the folder of --run."""
    page: Path | None = None
    """Where the page goes, as HTML; by default attacked.html in the folder of --run."""
    refused: Path | None = None
    """Where rows that cannot be used go, as CSV; by default refused.csv in the folder of --run."""
    run: Path | None = None
    """Folder for files that have no place of their own; by default the run folder MODEL, else the current one. Some of
    the attacked texts are kept there for `sparring report`."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print the summary as one JSON object."""

    def __post_init__(self) -> None:
        for name, holds, limits in (
            ("limit", self.limit >= 0, "an int in the range [0, inf)"),
            ("queries", self.queries is None or self.queries >= 1, "an int in the range [1, inf)"),
            ("edits", self.edits >= 1, "an int in the range [1, inf)"),
            ("append", self.append >= 1, "an int in the range [1, inf)"),
            ("most", self.most >= 1, "an int in the range [1, inf)"),
            ("words", 0 < self.words <= 1, "a number in the range (0, 1]"),
        ):
            if not holds:
                raise ValueError(f"The {name!r} parameter must be {limits}. Got {getattr(self, name)!r} instead.")
        unknown = [name for name in self.attacks if name not in NAMES]
        if unknown or not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise ValueError(
                f"--attacks must be some of {', '.join(NAMES)}, each once. Got {' '.join(self.attacks) or 'none'}."
            )

    @property
    def folder(self) -> Path:
        """Where files go that have no place of their own."""
        return self.run or (self.model if self.model.is_dir() else Path())


def run(arguments: Sequence[str]) -> int:
    """Attack, and return the exit code."""
    flags = parse(Flags, arguments, prog="sparring attack text", description=Flags.__doc__ or "")
    home = flags.model if flags.model.is_dir() else flags.model.parent
    classifier = load(home / FILE if flags.model.is_dir() else flags.model)
    places = _places(flags, home)
    rows = given(flags.input, classifier.classes, text=flags.text, label=flags.label, limit=flags.limit)
    gain = _gain(classifier, rows)
    weapons = arsenal(
        classifier, home, flags.attacks,
        Budget(words=flags.words, characters=flags.words, most=flags.most, edits=flags.edits, append=flags.append),
        neighbours=flags.neighbours, queries=flags.queries, root=flags.data_root,
    )  # fmt: skip
    found, checks = _battery(classifier, rows, gain, weapons, flags.seed)
    texts = decided(classifier, gain, rows, found)
    warnings = _warnings(classifier, rows, places["refused"])
    command = shlex.join(["sparring", "attack", "text", *arguments])
    told = summaries(found, weapons.challenges)
    account = attacked.Account(
        home.resolve().name if flags.model.is_dir() else flags.model.name, flags.input.name, texts,
        {name: {**each, "settings": settings(each["parameters"])} for name, each in told.items()},
        checks, weapons.notes, warnings, command, flags.seed,
    )  # fmt: skip
    for name, content in (
        ("out", as_csv(texts)),
        ("page", publish.html(attacked.assemble(account)).encode(errors="backslashreplace")),
        ("refused", aside_csv(rows.aside)),
    ):
        places[name].parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(places[name], content)
    places["kept"].parent.mkdir(parents=True, exist_ok=True)
    keep(places["kept"].parent, texts, flags.seed)
    _tell(flags, found, told, checks, [*warnings, *weapons.notes], places, command)
    return 0


def _battery(
    classifier: Classifier, rows: Given, gain: TextGain, weapons: Arsenal, seed: int
) -> tuple[Battery[Text], list[Check]]:
    """All attacks on all texts, a chunk at a time, and the checks."""
    texts = [Text.of(string) for string in rows.strings]
    chunks = torch.arange(len(texts)).split(CHUNK)
    steps = len(chunks) * len(weapons.challenges)
    parts: list[Battery[Text]] = []
    with progress("attacking", after=PATIENCE) as advance, watched(classifier.model) as modes:
        for chunk in chunks:
            some = [texts[i] for i in chunk.tolist()]
            here = gain_of(classifier, gain.y[chunk])
            outcomes: list[Battery[Text]] = []
            for each in weapons.challenges:
                advance(each.name, len(parts) * len(weapons.challenges) + len(outcomes), steps)
                outcomes.append(battery(here, some, [each], seed=seed))
            together = {name: one for found in outcomes for name, one in found.outcomes.items()}
            parts.append(Battery(outcomes[0].clean, outcomes[0].value, together))
    found = joined(parts)
    return found, [verified(found), never_falls(found), eval_mode(modes)]


def _gain(classifier: Classifier, rows: Given) -> TextGain:
    """The gain over all texts; where there are no labels, against what the model answers."""
    if rows.labels is not None:
        return gain_of(classifier, torch.tensor(rows.labels))
    blank = gain_of(classifier, torch.zeros(len(rows.strings), dtype=torch.long))
    answers = blank.logits([Text.of(string) for string in rows.strings], range(len(rows.strings))).argmax(1)
    return gain_of(classifier, answers)


def _warnings(classifier: Classifier, rows: Given, refused: Path) -> list[str]:
    notes = []
    if rows.labels is None:
        notes.append("The file has no labels: what the model says of a text counts as right.")
    if rows.aside:
        first = rows.aside[0]
        notes.append(
            f"{len(rows.aside):,} rows cannot be used and are in {refused}. The first, row {first.row}, {first.reason}."
        )
    if cut := int((classifier.reader.count(rows.strings) > classifier.length).sum()):
        notes.append(f"{cut:,} texts have more than {classifier.length} tokens: the model reads no further.")
    return notes


def _places(flags: Flags, home: Path) -> dict[str, Path]:
    """Where everything goes. Raises ValueError where one file would be written over another that is needed."""
    folder = flags.folder
    places = {
        "out": flags.out or folder / "attacked.csv",
        "page": flags.page or folder / "attacked.html",
        "refused": flags.refused or folder / "refused.csv",
        "kept": folder / text_diffs.FILE,
    }
    model = home / FILE if flags.model.is_dir() else flags.model
    seen: dict[Path, str] = {}
    for name, place in {"MODEL": model, "--input": flags.input, **places}.items():
        shown = f"--{name}" if name in ("out", "page", "refused") else name
        if (first := seen.setdefault(place.resolve(), shown)) != shown:
            raise ValueError(f"{first} and {shown} must be different files. Got {place} for both.")
    return places


def _tell(
    flags: Flags, found: Battery[Text], told: dict[str, dict[str, Any]], checks: list[Check], notes: list[str],
    places: dict[str, Path], command: str,
) -> None:  # fmt: skip
    n, right, standing = len(found.clean), int(found.clean.sum()), int(found.worst.sum())
    for note in notes:
        say(note)
    for check in checks:
        if check["verdict"] == "fail":
            say(f"check {check['name']} failed: {check['figure']}. {check['advice']}")
    if flags.json:
        summary = {"texts": n, "right": right, "standing": standing, "attacks": told, "checks": checks, "notes": notes}
        summary |= {name: str(place) for name, place in places.items()} | {"seed": flags.seed, "command": command}
        print(json.dumps(summary, allow_nan=False))
        return
    print(f"{n:,} texts, {right:,} right, {standing:,} right whichever attack is tried\n")
    print(f"  {'':<17}{'fell':>7}{'of':>7}{'words':>8}{'queries':>10}")
    for name, each in told.items():
        changed = "–" if each["changes"] is None else f"{each['changes']:.1f}"
        print(f"  {name:<17}{each['fell']:>7,}{each['of']:>7,}{changed:>8}{each['queries']:>10,.0f}")
    print(f"\n{places['out']}\n{places['page']}")
