"""Reads the text of a relation into its tree: the grammar of `schema`, and an error that points at what is wrong."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sparring.domains.flow.relation import (
    Column,
    Comparison,
    Condition,
    Membership,
    Number,
    Operation,
    Relation,
    Term,
    columns,
    linear,
)
from sparring.domains.flow.schema import Schema

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|'(?P<word>[^']*)'"
    r"|(?P<sign>=>|<=|>=|==|!=|[-+*/<>(){},]))"
)
_COMPARISONS = ("<=", ">=", "==", "!=", "<", ">")


class RelationError(ValueError):
    """A relation's text is not of the grammar, or names what the schema does not have."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class _Word:
    """A category in quotes, which may stand on one side of == and != only."""

    text: str


def parse(text: str, schema: Schema) -> Relation:
    """The relation that a line says.

    Raises:
        RelationError: with the position of what is wrong, counted from 1.
    """
    reader = _Reader(text, schema, _tokens(text))
    found = [reader.condition()]
    while reader.found("and"):
        found.append(reader.condition())
    if reader.found("=>"):
        premises, conclusion = tuple(found), reader.condition()
    elif len(found) > 1:
        raise reader.error("'=>' after conditions joined by 'and'")
    else:
        premises, conclusion = (), found[0]
    if reader.here.kind != "end":
        raise reader.error("the end of the relation")
    return Relation(text, premises, conclusion)


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise RelationError(_message(text, at, "a number, a name, a word in single quotes or a sign", text[at]))
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.end() - len(match[0].lstrip())))
        at = match.end()
    return [*tokens, _Token("end", "", len(text))]


def _message(text: str, at: int, wanted: str, got: str) -> str:
    return f"The relation {text!r} must have {wanted} at position {at + 1}. Got {got!r} instead."


@dataclass
class _Reader:
    text: str
    schema: Schema
    tokens: list[_Token]
    place: int = field(default=0)

    @property
    def here(self) -> _Token:
        return self.tokens[self.place]

    def error(self, wanted: str, token: _Token | None = None) -> RelationError:
        token = token or self.here
        return RelationError(_message(self.text, token.at, wanted, token.text or "the end"))

    def found(self, *texts: str) -> str:
        """Step over one of these signs or keywords if it is here, and say which; else ''."""
        token = self.here
        if token.kind in ("sign", "name") and token.text in texts:
            self.place += 1
            return token.text
        return ""

    def need(self, text: str) -> None:
        if not self.found(text):
            raise self.error(repr(text))

    def step(self, kind: str, wanted: str) -> _Token:
        token = self.here
        if token.kind != kind:
            raise self.error(wanted)
        self.place += 1
        return token

    def condition(self) -> Condition:
        start = self.here
        if start.kind == "name" and self.tokens[self.place + 1].text == "in":
            return self._membership()
        left, compared = self._sum(), self.here
        sign = self.found(*_COMPARISONS)
        if not sign:
            raise self.error("a comparison")
        opposite = self.here
        right = self._sum()
        if isinstance(left, _Word) or isinstance(right, _Word) or self._word_field(left) or self._word_field(right):
            return self._word_comparison(left, compared, right, start, opposite)
        made = Comparison(left, sign, right)
        if not made.fields:
            raise self.error("a condition that names a field", start)
        if self.here.text == "within" and sign != "==":
            raise self.error("'within' after == only")
        if self.found("within"):
            made = Comparison(left, sign, right, float(self.step("number", "a number").text))
        return made

    def _membership(self) -> Membership:
        name = self._category(self.step("name", "a field"))
        self.need("in")
        self.need("{")
        words = [self.step("word", "a word in single quotes").text]
        while self.found(","):
            words.append(self.step("word", "a word in single quotes").text)
        self.need("}")
        return Membership(name, tuple(words))

    def _word_comparison(
        self, left: Term | _Word, compared: _Token, right: Term | _Word, start: _Token, opposite: _Token
    ) -> Membership:
        if isinstance(left, _Word):
            left, right, start, opposite = right, left, opposite, start
        if not isinstance(left, Column) or not self._word_field(left):
            raise self.error("the name of a category field beside a word", start)
        if not isinstance(right, _Word):
            raise self.error("a word in single quotes beside a category field", opposite)
        if compared.text not in ("==", "!="):
            raise self.error("== or != beside a word", compared)
        return Membership(left.name, (right.text,), compared.text == "!=")

    def _word_field(self, term: Term | _Word) -> bool:
        return isinstance(term, Column) and not self.schema.field(term.name).numeric

    def _category(self, token: _Token) -> str:
        if token.text not in self.schema.names or self.schema.field(token.text).numeric:
            raise self.error("the name of a category field", token)
        return token.text

    def _sum(self) -> Term | _Word:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Term | _Word:
        return self._chain(("*", "/"), self._factor)

    def _chain(self, signs: tuple[str, str], part: Callable[[], Term | _Word]) -> Term | _Word:
        start = self.here
        made = part()
        while sign := self.found(*signs):
            after = self.here
            left, right = self._number(made, start), self._number(part(), after)
            made = Operation(sign, left, right)
            constant = linear(right) or {}
            if sign == "/" and not columns(right) and not constant.get(""):
                raise self.error("a divisor that is not zero", after)
        return made

    def _number(self, term: Term | _Word, token: _Token) -> Term:
        """The term, once it is known to be numeric."""
        if isinstance(term, _Word) or self._word_field(term):
            raise self.error("a number or a numeric field", token)
        return term

    def _factor(self) -> Term | _Word:
        token = self.here
        if token.kind == "number":
            self.place += 1
            return Number(float(token.text))
        if token.kind == "word":
            self.place += 1
            return _Word(token.text)
        if self.found("("):
            made = self._number(self._sum(), self.tokens[self.place - 1])
            self.need(")")
            return made
        if token.kind == "name" and token.text in ("max", "min") and self.tokens[self.place + 1].text == "(":
            self.place += 2
            left = self._number(self._sum(), token)
            self.need(",")
            right = self._number(self._sum(), token)
            self.need(")")
            return Operation(token.text, left, right)
        name = self.step("name", "a number, a field, a word in single quotes or '('").text
        if name not in self.schema.names:
            raise self.error(f"a field of {self.schema.name!r}", token)
        return Column(name)
