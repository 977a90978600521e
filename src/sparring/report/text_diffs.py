"""Texts that were attacked: the file that a run keeps of them, and how a page shows what was changed."""

import json
import math
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

from sparring.domains.text import words
from sparring.report.blocks import Block, Diff, Diffs, Heading, Mark, Piece, Text, Tone
from sparring.report.read import ReportError, Run, mapping

FILE = "attacked_texts.json"
"""Its name in a run folder."""

FORMAT = 1

SHOWN = 12
"""Texts of one run that a report shows."""

Result = Literal["fell", "stands", "wrong"]
"""Of an attack on one text: its class changed, it did not, or it was wrong before."""

SAYS: tuple[tuple[Result, str, Tone], ...] = (
    ("fell", "Falls", "bad"),
    ("stands", "Stands", "good"),
    ("wrong", "Wrong already", "quiet"),
)


@dataclass(frozen=True)
class Attacked:
    """One text before and after.

    Args:
        line: where it stood in its file.
        label: the class that it belongs to.
        result: see `Result`.
        attack: which attack this is of; "" for a text that was wrong before.
        original, attacked: the texts.
        before, after: the classes that the model answers.
        score_before, score_after: its probability of the label.
        changes: words changed or added.
        queries: texts that the model was asked about.
    """

    line: int
    label: str
    result: Result
    attack: str
    original: str
    attacked: str
    before: str
    after: str
    score_before: float
    score_after: float
    changes: int
    queries: int


def to_json(texts: Iterable[Attacked]) -> str:
    """What `FILE` holds."""
    held = {"format": FORMAT, "texts": [asdict(each) for each in texts]}
    return json.dumps(held, ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def read(folder: Path) -> list[Attacked]:
    """The attacked texts of a run folder; none where it holds none.

    Raises:
        ReportError: where the file is of another format.
    """
    file = folder / FILE
    if not file.exists():
        return []
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["format"] != FORMAT:
            raise KeyError(f"format {held['format']!r}")
        return [_checked(each) for each in held["texts"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ReportError(f"{file} must hold attacked texts of format {FORMAT}. It does not: {error}") from error


def _checked(each: Mapping[str, Any]) -> Attacked:
    text = Attacked(**each)
    if text.result not in [name for name, _, _ in SAYS] or not all(
        isinstance(getattr(text, name), kind)
        for kind, names in (
            (str, ("label", "attack", "original", "attacked", "before", "after")),
            (int, ("line", "changes", "queries")),
            ((int, float), ("score_before", "score_after")),
        )
        for name in names
    ):
        raise ValueError(f"text of line {each.get('line')!r}")
    return text


def examples(runs: Sequence[Run], seed: int) -> list[Block]:
    """What attacks made of a few texts of each run, drawn blind among those that were right before."""
    found: list[Block] = []
    for run in filter(of_texts, runs):
        name = Heading("", Mark(run.letter, run.name, run.index))
        if tried := [each for each in read(run.folder) if each.result != "wrong"]:
            found += [name, shown(tried, SHOWN, seed)]
        else:
            note = "No attacked texts are kept with this run. To add some: sparring attack text RUN --input FILE."
            found += [name, Text(note, note=True)]
    return found


def of_texts(run: Run) -> bool:
    """Whether the run is one of texts."""
    return bool(mapping(run.record, "text")) or (run.folder / FILE).exists()


def shown(texts: Sequence[Attacked], count: int, seed: int) -> Diffs:
    """Some of the texts, drawn blind."""
    some = drawn(texts, count, seed)
    many, drawing = _count(len(texts), "text"), ""
    if len(some) < len(texts):
        many, drawing = f"{len(some)} of {many}", f", drawn at random with seed {seed}, not selected"
    caption = (
        f"{many}{drawing}. Struck out: what the attack took. Shaded: what it put "
        "there, with the code points of letters that look like others. Per cent: the model’s probability of the label, "
        "before and after."
    )
    return Diffs(caption, [diff(each) for each in some])


def drawn(texts: Sequence[Attacked], count: int, seed: int) -> list[Attacked]:
    """Some of the texts, in their order."""
    if len(texts) <= count:
        return list(texts)
    return [texts[i] for i in sorted(random.Random(seed).sample(range(len(texts)), count))]


def diff(text: Attacked) -> Diff:
    """One text with what was changed in it."""
    _, title, tone = next(each for each in SAYS if each[0] == text.result)
    told = [f"line {text.line}", text.label if text.after == text.label else f"{text.label} → {text.after}"]
    told.append(f"{_share(text.score_before)} → {_share(text.score_after)}")
    if text.attack:
        told += [text.attack, _count(text.changes, "word"), _count(text.queries, "query")]
    return Diff(title, " · ".join(told), pieces(text.original, text.attacked), tone)


def pieces(before: str, after: str) -> list[Piece]:
    """What two texts share and where they differ, word by word; neighbouring changes are one."""
    old, new = list(words.Text.of(before).pieces), list(words.Text.of(after).pieces)
    found: list[Piece] = []
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = "".join(old[i:j]), "".join(new[k:m])
        if gone:
            found.append(Piece(visible(gone), "kept" if tag == "equal" else "out"))
        if come and tag != "equal":
            found.append(Piece(visible(come), "in", _strange(before, come)))
    return found


def visible(text: str) -> str:
    """The text with characters that cannot be seen, or that turn what follows them, written as their code points."""
    return "".join(f"⟨{_code(c)}⟩" if _hidden(c) else c for c in text)


def marked(before: str, after: str) -> str:
    """The changed text in one line, each change as `[old→new]`."""
    told: list[str] = []
    found = pieces(before, after)
    for i, piece in enumerate(found):
        if piece.kind == "kept":
            told.append(piece.text)
        elif piece.kind == "out" and i + 1 < len(found) and found[i + 1].kind == "in":
            told.append(f"[{piece.text}→{found[i + 1].text}]")
        elif piece.kind == "out":
            told.append(f"[{piece.text}→]")
        elif not (i and found[i - 1].kind == "out"):
            told.append(f"[→{piece.text}]")
    return "".join(told)


def _strange(before: str, come: str) -> str:
    """The code points that may look like what they are not: characters from outside ASCII that the text had nowhere."""
    new = sorted({c for c in come if not c.isascii() and c not in before and not _hidden(c) and not c.isspace()})
    return " ".join(map(_code, new[:3])) + (" …" if len(new) > 3 else "")


def _hidden(c: str) -> bool:
    return c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") and c != "\u200d"


def _code(c: str) -> str:
    return f"U+{ord(c):04X}"


def _share(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{100 * value:.0f} %"


def _count(n: int, one: str) -> str:
    many = {"word": "words", "query": "queries", "text": "texts"}[one]
    return f"{n:,} {one if n == 1 else many}"
