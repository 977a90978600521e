"""All relations of a schema valued at once, with as few tensor operations as a training loop can afford.

Nearly all conditions are linear in the columns, and one matrix product values them all; words hang on what an attack
never changes. Only what is left, such as a ratio of two columns, is valued term by term. `relation.Relation.slack` says
what the numbers are; a test holds the two together.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.relation import TOLERANCE, Comparison, Condition, Membership, Relation, linear
from sparring.domains.flow.relation_text import parse
from sparring.domains.flow.schema import Field

_ORDER = ("<=", "<", ">=", ">", "==", "!=")


@dataclass(frozen=True, eq=False)
class Joint:
    """The R relations of a schema in which something may change, over the n numeric fields that may change or occur in
    them: of what is left out, nothing can ever come out differently than in the original row.

    Args:
        relations: parsed.
        columns: which of the numeric fields of the preprocessing these are, ascending.
        preprocessing: which gives the order of the words.
        device: where its constants are.
    """

    relations: tuple[Relation, ...]
    columns: tuple[int, ...]
    preprocessing: Preprocessing
    device: torch.device

    @classmethod
    def of(cls, preprocessing: Preprocessing, device: torch.device) -> "Joint":
        """Those of the schema. Raises RelationError for a line that is none."""
        schema = preprocessing.schema
        free = {field.name for field in schema.fields if field.change != "fixed"}
        relations = tuple(each for each in (parse(line, schema) for line in schema.relations) if each.fields & free)
        named = free.union(*(each.fields for each in relations))
        columns = tuple(k for k, field in enumerate(preprocessing.numeric) if field.name in named)
        return cls(relations, columns, preprocessing, device)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The n fields."""
        return tuple(self.preprocessing.numeric[k] for k in self.columns)

    @cached_property
    def place(self) -> dict[str, int]:
        """The number of each field among the n."""
        return {field.name: k for k, field in enumerate(self.fields)}

    @cached_property
    def members(self) -> Tensor:
        """Which numeric field occurs in which relation, 0 and 1, float32 `[n, R]`."""
        rows = [[float(name in each.fields) for each in self.relations] for name in self.place]
        return torch.tensor(rows, device=self.device).reshape(len(self.place), len(self.relations))

    @cached_property
    def word_members(self) -> Tensor:
        """The same for the category fields, in schema order, `[c, R]`."""
        names = tuple(self.preprocessing.blocks)
        rows = [[float(name in each.fields) for each in self.relations] for name in names]
        return torch.tensor(rows, device=self.device).reshape(len(names), len(self.relations))

    @cached_property
    def occurrences(self) -> Tensor:
        """In which relations each field occurs, int64 `[n, K]`, filled up with R, which is none."""
        found = [[r for r, each in enumerate(self.relations) if name in each.fields] for name in self.place]
        most = max([len(each) for each in found] or [0])
        return self._indices([each + [len(self.relations)] * (most - len(each)) for each in found], most)

    def words(self, x: Tensor) -> Tensor:
        """The slack of the conditions on categories, and of one that always holds, float64 `[B, C_words + 1]`, from
        vectors `[B, width]`."""
        inside = x[:, len(self.preprocessing.numeric) :] @ self._word_matrix[0].to(x.dtype) > 0.5
        return torch.where(inside != self._word_matrix[1], -1.0, 1.0).double()

    def slack(self, raw: Tensor, words: Tensor) -> Tensor:
        """Of every relation, `[B, R]`: at most 0 where it holds.

        Args:
            raw: numeric values float64 `[B, n]`, of their types.
            words: from `words`, for the same rows.
        """
        matrix, constant, equal, unequal = self._matrix
        d = torch.addmm(constant, raw, matrix)
        d[:, equal:].abs_().sub_(self._within)
        d[:, unequal:].neg_()
        curved = [
            condition.slack(lambda name: raw[:, self.place[name]], _no_words)[:, None] for condition in self._curved
        ]
        slack = torch.cat([d, *curved, words], 1)
        premises, conclusions = self._layout
        told = slack[:, conclusions]
        if premises.shape[1]:
            worst = slack[:, premises.flatten()].reshape(len(raw), *premises.shape).amax(2)
            told = torch.where(worst <= 0, told, -worst)
        return told

    @cached_property
    def _conditions(self) -> tuple[Condition, ...]:
        """Each once: linear ones by the order of their signs, curved ones, words."""
        found = dict.fromkeys(condition for each in self.relations for condition in each.conditions)
        return tuple(sorted(found, key=_rank))

    @cached_property
    def _straight(self) -> tuple[Comparison, ...]:
        return tuple(each for each in self._conditions if isinstance(each, Comparison) and _difference(each))

    @cached_property
    def _curved(self) -> tuple[Comparison, ...]:
        return tuple(each for each in self._conditions if isinstance(each, Comparison) and not _difference(each))

    @cached_property
    def _matrix(self) -> tuple[Tensor, Tensor, int, int]:
        """The slack of the linear comparisons up to the first == is `raw @ matrix + constant`: matrix `[n, C]`,
        constant `[C]`; from there it has yet to lose its sign. Where == and != begin."""
        signs = [each.sign for each in self._straight]
        told = [_difference(each) or {} for each in self._straight]
        side = [-1.0 if sign in (">=", ">") else 1.0 for sign in signs]
        beside = {"<=": -TOLERANCE, ">=": -TOLERANCE, "<": TOLERANCE, ">": TOLERANCE}
        rows = [[s * each.get(name, 0.0) for s, each in zip(side, told, strict=True)] for name in self.place]
        matrix = torch.tensor(rows, dtype=torch.float64, device=self.device).reshape(len(self.place), len(told))
        constant = [
            s * each.get("", 0.0) + beside.get(sign, 0.0) for s, each, sign in zip(side, told, signs, strict=True)
        ]
        equal = sum(sign in beside for sign in signs)
        moved = torch.tensor(constant, dtype=torch.float64, device=self.device)
        return matrix, moved, equal, equal + signs.count("==")

    @cached_property
    def _within(self) -> Tensor:
        """How far apart the sides of == and != may be."""
        within = [each.within + TOLERANCE for each in self._straight if each.sign in ("==", "!=")]
        return torch.tensor(within, dtype=torch.float64, device=self.device)

    @cached_property
    def _word_matrix(self) -> tuple[Tensor, Tensor]:
        """Which coordinate behind the numeric ones is a word of which condition `[width - n, C_words]`; which of them
        are negated."""
        names = self.preprocessing.names[len(self.preprocessing.numeric) :]
        told = [each for each in self._conditions if isinstance(each, Membership)]
        wanted = [{f"{each.name}={word}" for word in each.among} for each in told] + [set()]
        rows = [[float(name in each) for each in wanted] for name in names]
        matrix = torch.tensor(rows, device=self.device).reshape(len(names), len(wanted))
        return matrix, torch.tensor([each.negated for each in told] + [True], dtype=torch.bool, device=self.device)

    @cached_property
    def _layout(self) -> tuple[Tensor, Tensor]:
        """The columns of the premises `[R, most]`, filled up with the last, which always holds, and of the conclusions
        `[R]`."""
        at = {condition: k for k, condition in enumerate(self._conditions)}
        most = max([len(each.premises) for each in self.relations] or [0])
        premises = [[at[p] for p in each.premises] + [len(at)] * (most - len(each.premises)) for each in self.relations]
        conclusions = torch.tensor([at[each.conclusion] for each in self.relations], dtype=torch.int64)
        return self._indices(premises, most), conclusions.to(self.device)

    def _indices(self, rows: list[list[int]], width: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.device).reshape(len(rows), width)


def _difference(condition: Comparison) -> dict[str, float] | None:
    """The coefficients of left minus right side, None where it is not linear."""
    left, right = linear(condition.left), linear(condition.right)
    if left is None or right is None:
        return None
    return {name: left.get(name, 0.0) - right.get(name, 0.0) for name in left | right}


def _rank(condition: Condition) -> int:
    if isinstance(condition, Membership):
        return len(_ORDER) + 1
    return _ORDER.index(condition.sign) if _difference(condition) else len(_ORDER)


def _no_words(*_: str) -> Tensor:
    raise AssertionError("A comparison has no words.")
