"""How a command of one domain answers: flags to a result, the result printed, an exit code."""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sparring.commands.flags import parse, say
from sparring.engine import checkpoint

F = TypeVar("F")


def reproduced(
    arguments: Sequence[str],
    flags: type[F],
    reproduce: Callable[[F, str], dict[str, Any]],
    text: Callable[[dict[str, Any]], str],
) -> int:
    """Reproduce, print, and return the exit code, 0 whatever the verdict."""
    _printed("reproduce", arguments, flags, reproduce, text)
    return 0


def write_claim(file: Path, answer: dict[str, Any]) -> None:
    """Keep the answer of a claim, and say where."""
    checkpoint.write(file, json.dumps(answer, indent=1, allow_nan=False).encode())
    say(f"written to {file}")


def evaluated(
    arguments: Sequence[str],
    flags: type[F],
    evaluate: Callable[[F, str], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> int:
    """Evaluate, print, and return the exit code: 1 where a check failed and --fail-on-check asks for it."""
    chosen, evaluation = _printed("evaluate", arguments, flags, evaluate, table)
    failed = [each["name"] for each in evaluation["checks"] if each["verdict"] == "fail"]
    return 1 if chosen.fail_on_check and failed else 0


def one_folder(folder: Path | None, run: Path | None) -> Path:
    """The run folder of an evaluation, named in one of two ways. Raises ValueError for none, or for two."""
    found = folder or run
    if found is None or (folder and run and folder != run):
        raise ValueError("evaluate needs one run folder: sparring evaluate RUN, or --run RUN.")
    return found


def _printed(
    name: str,
    arguments: Sequence[str],
    flags: type[F],
    answer: Callable[[F, str], dict[str, Any]],
    text: Callable[[dict[str, Any]], str],
) -> tuple[Any, dict[str, Any]]:
    """The flags and the answer of `sparring NAME`, printed as text, or with --json as one object."""
    chosen: Any = parse(flags, arguments, prog=f"sparring {name}", description=flags.__doc__ or "")
    found = answer(chosen, shlex.join(["sparring", name, *arguments]))
    print(json.dumps(found, allow_nan=False) if chosen.json else text(found))
    return chosen, found
