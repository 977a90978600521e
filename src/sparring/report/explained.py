"""The section on explanations: what the model looks at, whether the maps are true to it, whether they are stable."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, maps, words
from sparring.report.blocks import Block, Cell, Gallery, Heading, Picture, Table, Text
from sparring.report.read import Estimate, Run, count, estimate, find, mapping
from sparring.report.side_by_side import side_by_side
from sparring.report.tensors import STATES

MEASURES = (
    ("deletion", "Deletion", "low"),
    ("insertion", "Insertion", "high"),
    ("sufficiency", "Sufficiency", "low"),
    ("comprehensiveness", "Comprehensiveness", "high"),
)
"""Measures of faithfulness: key, name, and which end is good."""

SIMILARITIES = (
    ("cosine", "Cosine"),
    ("spearman", "Rank correlation"),
    ("top-10%", "Shared top 10 %"),
    ("ssim", "SSIM"),
)
CONCENTRATIONS = (("energy", "Energy in the foreground"), ("pointing", "Highest pixel in the foreground"))
SENSES = (("same_class", "of the class predicted for the clean input"), ("as_shown", "each of its own prediction"))

LEAD = (
    "A map says how much each pixel counts for the answer. Faithful maps name pixels that matter: taking them away "
    "changes the answer more than taking away pixels in a random order. Stable maps change little under attack. "
    "Stability alone is no merit, since a map that says nothing never changes; so it counts only with faithfulness."
)
COLOURS = (
    "In the maps below, pale counts for nothing, orange speaks for the answer and blue against it. Each map explains "
    "the model’s own answer to that input, on a scale of its own. A map by the gradient or by Grad-CAM has no sign, so "
    "it is never blue; one by Grad-CAM is no finer than the model’s last feature map."
)
AGAINST_CHANCE = (
    "In the tables of faithfulness each cell says how much better than a random order the map is, with its 95 % "
    "interval; below it stand the figure itself and that of the random order. A map is called faithful if all four "
    "intervals lie above zero."
)


def explanations(runs: Sequence[Run]) -> list[Block]:
    """Maps of the same inputs from all runs; then of each run maps of a few inputs, faithfulness, stability with the
    faithfulness that it needs beside it, and how much of the maps lies in the foreground."""
    shown = [run for run in runs if methods(run)]
    blocks: list[Block] = [Text(LEAD)] if shown else []
    if any(run.maps.tensors is not None for run in shown):
        blocks.append(Text(COLOURS))
    if shown:
        ends = "; ".join(f"{name}: {end}" for _, name, end in MEASURES)
        blocks.append(Text(f"{AGAINST_CHANCE} The end that is faithful: {ends}."))
    blocks += side_by_side(shown)
    for run in shown:
        blocks += [Heading("", facts.mark(run)), *_left_out(run), *_gallery(run)]
        blocks += [*_faithfulness(run), *_stability(run), *_concentration(run)]
    return blocks + facts.lacking(runs, lambda run: bool(methods(run)), "no explanations")


def methods(run: Run) -> list[str]:
    """The methods of explanation in the record."""
    return list(mapping(run.record, "evaluation", "explanations", "methods"))


def advantages(run: Run, method: str, state: str) -> dict[str, Estimate]:
    """By measure of faithfulness, how much better than a random order; above zero is better."""
    part = mapping(_method(run, method), state)
    found = ((key, estimate(find(part, key, "advantage"), "mean", n=count(part, key, "n"))) for key, _, _ in MEASURES)
    return {key: e for key, e in found if e is not None}


def stability(run: Run, method: str) -> Estimate | None:
    """The cosine between the maps of the clean and of the attacked input, both of the class predicted for the clean."""
    return estimate(find(_method(run, method), "stability", "same_class", "cosine"), "mean")


def faithful(run: Run, method: str) -> bool:
    """Whether the maps beat a random order in every measure, clean and attacked."""
    return find(_method(run, method), "stability", "faithful") is True


def _method(run: Run, method: str) -> Mapping[str, Any]:
    return mapping(run.record, "evaluation", "explanations", "methods", method)


def _left_out(run: Run) -> list[Block]:
    reasons = mapping(run.record, "evaluation", "explanations", "left_out")
    said = [f"{words.method(name)} ({why})" for name, why in reasons.items() if isinstance(why, str)]
    return [Text(f"Left out for this model: {words.listing(said)}.", note=True)] if said else []


def _gallery(run: Run) -> list[Block]:
    stored = run.maps.tensors
    if stored is None:
        return [Text(f"No maps are shown: {run.maps.problem}.", note=True)]
    names = [name for name in methods(run) if all(f"{name}/{state}" in stored for state in STATES)]
    drawn = maps.draw(stored, names)
    caption = (
        f"{len(drawn)} of {len(stored['y'])} stored examples, drawn at random. Above: the clean input with its maps. "
        "Below: the attacked one with its own."
    )
    head = [f"{state}: {what}" for state in STATES for what in ("image", *map(words.method, names))]
    rows = []
    for example in drawn:
        true = facts.class_name(run, example.label)
        row = []
        for state in STATES:
            alt = f"{state.capitalize()} image of class {true}"
            row.append(Picture(example.images[state], alt, state, f"class “{true}”"))
            for name in names:
                said = words.method(name)
                alt = f"Map by {said} of the {state} image of class {true}"
                row.append(Picture(example.maps[name, state], alt, said, ""))
        rows.append(row)
    return [Gallery(caption, head, rows, columns=1 + len(names))] if rows else []


def _faithfulness(run: Run) -> list[Block]:
    rows = []
    for name in methods(run):
        for state in STATES:
            part = mapping(_method(run, name), state)
            cells = []
            for key, _, _ in MEASURES:
                own = estimate(find(part, key), "mean")
                chance = estimate(find(part, key, "control"), "mean")
                better = advantages(run, name, state).get(key)
                ahead = find(part, key, "beats_control") is True
                beside = f"{words.error(own)}; random {words.error(chance)}" if own and chance else ""
                cells.append(Cell(_signed(better), "" if ahead else "quiet", detail=beside))
            held = sum(find(part, key, "beats_control") is True for key, _, _ in MEASURES)
            yes = find(part, "faithful") is True
            verdict = Cell("faithful", "good") if yes else Cell(f"better in {held} of {len(MEASURES)}", "bad")
            rows.append([Cell(words.capital(words.method(name)), detail=state), verdict, *cells])
    head = ["Map", "Verdict", *(name for _, name, _ in MEASURES)]
    title = f"Faithfulness of the explanations of {run.name} against a random order{_counted(run)}."
    return [Table(title, [Cell(each) for each in head], rows)]


def _counted(run: Run) -> str:
    n = count(run.record, "evaluation", "explanations", "n")
    return f", n = {words.whole(n)}" if n is not None else ""


def _stability(run: Run) -> list[Block]:
    rows = []
    for name in methods(run):
        true = faithful(run, name)
        for sense, title in SENSES:
            part = mapping(_method(run, name), "stability", sense)
            cells = []
            for key, _ in SIMILARITIES:
                e = estimate(find(part, key), "mean")
                other = estimate(find(part, key, "control"), "mean")
                detail = f"another image’s {words.error(other)}" if other else ""
                cells.append(Cell(words.error(e), "" if true else "quiet", detail=detail))
            verdict = Cell("yes", "good") if true else Cell("no", "bad", detail="so this says nothing")
            rows.append([Cell(words.capital(words.method(name)), detail=title), verdict, *cells])
    flipped = estimate(find(run.record, "evaluation", "explanations", "flipped"), "mean")
    changed = f" The attack changed the answer to {words.share(flipped)} of the inputs." if flipped else ""
    head = ["Maps compared", "Faithful?", *(name for _, name in SIMILARITIES)]
    title = f"Likeness of clean and attacked maps of {run.name}, with 95 % intervals{_counted(run)}.{changed}"
    return [Table(title, [Cell(each) for each in head], rows)]


def _concentration(run: Run) -> list[Block]:
    rows = []
    for name in methods(run):
        for state in STATES:
            part = mapping(_method(run, name), "concentration", state)
            cells = []
            for key, _ in CONCENTRATIONS:
                own, share = (estimate(found, "mean") for found in (find(part, key), find(part, key, "control")))
                beside = f"of the image {words.percent(share.value)}" if share else ""
                cells.append(Cell(words.share(own), detail=beside))
            if any(cell.text != "–" for cell in cells):
                rows.append([Cell(words.capital(words.method(name)), detail=state), *cells])
    title = f"How much of the maps of {run.name} lies in the foreground, beside the share of the image that it covers."
    head = ["Map", *(name for _, name in CONCENTRATIONS)]
    return [Table(title, [Cell(each) for each in head], rows)] if rows else []


def _signed(e: Estimate | None) -> str:
    if e is None:
        return "–"
    ends = "" if e.low is None or e.high is None else f" ({words.signed(e.low, 3)} to {words.signed(e.high, 3)})"
    return f"{words.signed(e.value, 3)}{ends}"
