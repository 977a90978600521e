"""The same inputs explained by several runs: one column for each run, under its name, with what it answered."""

from collections import Counter
from collections.abc import Mapping, Sequence

from sparring.report import facts, maps, words
from sparring.report.blocks import Block, Cell, Heading, Image, Table, Text
from sparring.report.images import Array, uri
from sparring.report.read import Run, mapping
from sparring.report.tensors import PREDICTION, STATES

SHOWN = 4
"""Examples of one data set at most."""

Key = tuple[int, bytes]
"""An example: its row of the test set and, lest two runs number it differently, the image itself."""

METHODS = ("grad-cam", "gradient")
"""Methods whose maps may stand side by side, the first choice first."""

ABOUT = (
    "Each column holds one run’s maps of the same inputs; under a map stands the run’s answer, which is what the map "
    "explains. The clean input is the same for all runs. The attacked one is not, since each run was attacked by "
    "itself, so each map of it has its own beside it. The examples were drawn at random, not selected."
)


def side_by_side(runs: Sequence[Run]) -> list[Block]:
    """For each data set, the examples that at least two runs have explained by the same method; else nothing."""
    blocks: list[Block] = []
    for group in facts.by_data([run for run in runs if run.maps.tensors is not None]):
        method, able = _method(group.runs)
        keys = _common(able)
        if keys:
            examples = "example" if len(keys) == 1 else "examples"
            what = f"{words.capital(words.method(method))} of the same {len(keys)} {examples}"
            title = f"{what} of {group.title}, run by run."
            lines = [line for key in keys for line in _lines(able, key, method)]
            head = [Cell("Image"), *(Cell("", mark=facts.mark(run)) for run in able)]
            blocks += [Table(title, head, lines)]
    return [Heading("Side by side"), Text(ABOUT), *blocks] if blocks else []


def _method(runs: Sequence[Run]) -> tuple[str, list[Run]]:
    """The method that most runs have maps by, and those runs."""
    able = {method: [run for run in runs if _explained(run, method)] for method in METHODS}
    best = max(METHODS, key=lambda method: len(able[method]))
    return best, able[best]


def _explained(run: Run, method: str) -> bool:
    """Whether the maps of this method are stored with what tells which test examples they are of."""
    stored = _stored(run)
    named = method in mapping(run.record, "evaluation", "explanations", "methods")
    wanted = ["rows", *(f"{name}/{state}" for name in (method, PREDICTION) for state in STATES)]
    return named and all(name in stored for name in wanted)


def _stored(run: Run) -> Mapping[str, Array]:
    return run.maps.tensors or {}


def _places(run: Run) -> dict[Key, int]:
    """Where each example is among the stored maps."""
    stored = _stored(run)
    return {(int(row), stored["x"][place].tobytes()): place for place, row in enumerate(stored["rows"])}


def _common(runs: Sequence[Run]) -> list[Key]:
    """The examples that the most runs have, at least two, in the order in which they were drawn."""
    counted = Counter(key for run in runs for key in _places(run))
    keys = sorted((key for key, many in counted.items() if many > 1), key=lambda key: -counted[key])
    return keys[:SHOWN]


def _lines(runs: Sequence[Run], key: Key, method: str) -> list[list[Cell]]:
    """The line of the clean input and that of the attacked one."""
    having = next(run for run in runs if key in _places(run))
    place = _places(having)[key]
    true = facts.class_name(having, int(_stored(having)["y"][place]))
    image = Image(uri(maps.finite(_stored(having)["x"][place])), f"Clean image of class {true}")
    clean = Cell("clean", detail=f"class “{true}”, test image {words.whole(key[0])}", images=[image])
    attacked = Cell("attacked", detail="each run’s own input, beside its map")
    return [
        [clean, *(_cell(run, key, method, "clean") for run in runs)],
        [attacked, *(_cell(run, key, method, "attacked") for run in runs)],
    ]


def _cell(run: Run, key: Key, method: str, state: str) -> Cell:
    """A run's map, beside it the input where that is the run's own, and its answer in words."""
    place = _places(run).get(key)
    if place is None:
        return Cell("not stored", "quiet")
    stored = _stored(run)
    answer, label = int(stored[f"{PREDICTION}/{state}"][place]), int(stored["y"][place])
    right = answer == label
    said, true = f"“{facts.class_name(run, answer)}” {'right' if right else 'wrong'}", facts.class_name(run, label)
    whose = f"{words.capital(words.method(method))} of {facts.label(run)} for"
    alt = f"{whose} the {state} image of class {true}, predicted {facts.class_name(run, answer)}"
    images = [Image(maps.coloured(stored[f"{method}/{state}"][place]), alt)]
    if state == "attacked":
        own = uri(maps.finite(stored["z"][place]))
        images.append(Image(own, f"Image of class {true} as attacked against {facts.label(run)}"))
    return Cell(said, "good" if right else "bad", images=images)
