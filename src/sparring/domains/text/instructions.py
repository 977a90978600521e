"""Instruction data as others publish it: Alpaca's JSON, BIPIA's injections; and the pairs that hardening trains on.

The attack is that of StruQ and SecAlign: another row's instruction, with its data, behind a row's data; the answer that
is not wanted is that row's. No rule knows a right answer here, so these are for training and for likelihoods.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sparring.domains.text.chat import Conversations
from sparring.domains.text.files import DataError
from sparring.domains.text.injections import Attempt, Injection
from sparring.domains.text.prompt import Chat, Query
from sparring.domains.text.tokens import PAD, padded


@dataclass(frozen=True)
class Answered:
    """A query and its answer."""

    query: Query
    answer: str


def alpaca(path: str | Path) -> list[Answered]:
    """Rows `{"instruction", "input", "output"}` of a JSON list, those without an instruction or an answer left out.

    Raises:
        DataError: where the file is nothing of the kind; a bad row is named by its number, from 1.
    """
    rows = _json(Path(path))
    if not isinstance(rows, list):
        raise DataError(f"{path} must hold a JSON list. It holds a {type(rows).__name__}.")
    found = []
    for number, row in enumerate(rows, 1):
        cells = [row.get(name) for name in ("instruction", "input", "output")] if isinstance(row, dict) else [None]
        if not all(isinstance(each, str) for each in cells):
            raise DataError(f"{path}, row {number}: must have the strings instruction, input and output.")
        instruction, data, answer = (str(each).strip() for each in cells)
        if instruction and answer:
            found.append(Answered(Query(instruction, data), answer))
    return found


def bipia(path: str | Path) -> dict[str, list[str]]:
    """BIPIA's attacks, `{kind: [instruction, ...]}`. Raises DataError where the file is nothing of the kind."""
    kinds = _json(Path(path))
    if not isinstance(kinds, dict) or not all(
        isinstance(each, list) and all(isinstance(one, str) for one in each) for each in kinds.values()
    ):
        raise DataError(f"{path} must hold a JSON object of lists of strings.")
    return {str(kind): list(each) for kind, each in kinds.items()}


def conversations(
    rows: Sequence[Answered],
    chat: Chat,
    rng: torch.Generator,
    *,
    injection: Injection,
    draws: int = 1,
    length: int = 256,
    held_out: bool = False,
) -> Conversations:
    """Rows with data, each with injections of other rows: what `sparring.systems.prompt_injection` trains on.

    Args:
        rows: read from a file, at least two; those without data, and those that are too long, are left out.
        chat: the prompts.
        rng: of which row is injected.
        injection: how.
        draws: injections of each row.
        length: tokens of prompt and answer at most.
        held_out: with the fake delimiters that training does not see.

    Raises:
        DataError: where no row is short enough.
    """
    planes: list[list[list[int]]] = []
    for row in rows:
        if not row.query.data:
            continue
        queries, answers = [row.query], [row.answer]
        for _ in range(draws):
            other = rows[int(torch.randint(len(rows), (), generator=rng).item())]
            asked = f"{other.query.instruction} {other.query.data}".strip()
            data = injection(Attempt(row.query.data, asked, row.answer, rng, held_out))
            queries += [Query(row.query.instruction, data)] * 2
            answers += [row.answer, other.answer]
        ids = chat.wholes(queries, answers)
        if max(map(len, ids)) <= length:
            planes.append([ids[0], [], *ids[1:]])
    if not planes:
        raise DataError(f"No row with data is of at most {length} tokens, injection and answer included.")
    x = padded([each for plane in planes for each in plane], length).int()
    x = x[:, : int((x != PAD).sum(1).max())]
    return Conversations(x.view(len(planes), 1 + draws, 2, -1), torch.zeros(len(planes), dtype=torch.long))


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} must be JSON in UTF-8: {error}") from error
