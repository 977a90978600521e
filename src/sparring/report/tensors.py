"""The tensors beside a record: attacked examples, outcomes, explanations. A file may be missing or say anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = ("x", "z", "y", "clean_prediction", "adversarial_prediction", "clean_confidence", "adversarial_confidence")
"""What `examples.safetensors` holds: inputs and their attacked twins `[k, C, H, W]`, the rest `[k]`."""

STATES = ("clean", "attacked")
"""Of an input that is explained: a map is stored as METHOD/STATE `[k, H, W]`."""

PREDICTION = "prediction"
"""What the model answered, stored like a method's maps as prediction/STATE, `[k]` int."""


@dataclass(frozen=True)
class Stored:
    """The tensors of a file by name, or None and why, as a clause."""

    tensors: "Mapping[str, np.ndarray[Any, Any]] | None"
    problem: str = ""


def examples(path: Path) -> Stored:
    """Images and what a model made of them: the tensors of `EXAMPLES`."""
    found = _load(path, "examples")
    if found.tensors is None:
        return found
    tensors = found.tensors
    absent = [name for name in EXAMPLES if name not in tensors]
    if absent:
        return Stored(None, f"{path.name} lacks {', '.join(absent)}")
    x = tensors["x"]
    if x.ndim != 4 or tensors["z"].shape != x.shape:
        return Stored(None, f"its stored examples are not images (x has shape {list(x.shape)})")
    if any(tensors[name].shape != x.shape[:1] for name in EXAMPLES[2:]):
        return Stored(None, f"the tensors of {path.name} differ in length")
    return found if len(x) and x.size else Stored(None, "no examples were stored")


def outcomes(path: Path) -> Stored:
    """`rows`, the test examples `[N]` int, and by name which of them are right `[N]` bool."""
    found = _load(path, "outcomes")
    if found.tensors is None:
        return found
    rows = found.tensors.get("rows")
    if rows is None or rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) == 0:
        return Stored(None, f"{path.name} does not say which test examples it is about")
    rights = {name: right for name, right in found.tensors.items() if name != "rows"}
    if any(right.dtype != bool or right.shape != rows.shape for right in rights.values()):
        return Stored(None, f"the tensors of {path.name} are not one answer per example")
    return found


def maps(path: Path) -> Stored:
    """`x, z` `[k, C, H, W]`, `y` `[k]`, and for each method and state a map `[k, H, W]`.

    Also `rows` of the test set and the `PREDICTION` in each state, `[k]` int; files of before there were any lack them.
    """
    found = _load(path, "maps")
    if found.tensors is None:
        return found
    absent = [name for name in ("x", "z", "y") if name not in found.tensors]
    if absent:
        return Stored(None, f"{path.name} lacks {', '.join(absent)}")
    x = found.tensors["x"]
    if x.ndim != 4 or found.tensors["z"].shape != x.shape or found.tensors["y"].shape != x.shape[:1]:
        return Stored(None, f"its explained inputs are not images (x has shape {list(x.shape)})")
    if not x.size:
        return Stored(None, "no maps were stored")
    whole = ["rows", *(f"{PREDICTION}/{state}" for state in STATES)]
    drawn = [name for name in found.tensors if "/" in name and name not in whole]
    if any(found.tensors[name].shape != (len(x), *x.shape[2:]) for name in drawn):
        return Stored(None, f"the maps of {path.name} do not have the shape of their images")
    given = [found.tensors[name] for name in whole if name in found.tensors]
    if any(each.shape != x.shape[:1] or each.dtype.kind not in "iu" for each in given):
        return Stored(None, f"the rows or answers in {path.name} are not one whole number per image")
    return found


def _load(path: Path, what: str) -> Stored:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return Stored(load_file(path))
    except FileNotFoundError:
        return Stored(None, f"no {what} were stored")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        return Stored(None, f"{path.name} cannot be read ({error})")
