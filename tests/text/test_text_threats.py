"""Discrete threat models of texts: what is listed is what is allowed, by two ways that share no code, on spaces small
enough to go through."""

from itertools import combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.core.discrete import Crossing, Discrete
from sparring.domains.text.characters import KINDS, distance, slips, spellings
from sparring.domains.text.neighbours import Neighbours
from sparring.domains.text.threats import Append, Characters, Injected, Insertion, Substitution, Suffix
from sparring.domains.text.words import Text

NEAR = Neighbours("mine", {"good": ("fine", "great", "nice"), "film": ("movie",), "bad": ("poor", "ßtraße")})
X = Text.of("Good film ,\tGOOD bad ")
POOL = ("yes", "good", "!")


def reached(threat, x):
    """Everything that edits lead to, one after the other."""
    found, fresh = {x}, [x]
    while fresh:
        z = fresh.pop()
        for site in threat.sites(x):
            for each in threat.edits(z, x, site):
                if each not in found:
                    found.add(each)
                    fresh.append(each)
    return found


def words_of(x, options):
    """x with every combination of these words in the places of its own."""
    for words in product(*options):
        z = x
        for i, word in enumerate(words):
            z = z.put(i, word)
        yield z


THREATS = [
    (Substitution(NEAR, 0.4, 2), X),
    (Substitution(NEAR, 1.0, 9), X),
    (Substitution(NEAR, 0.1, 1, least=0), X),
    (Characters(1, 0.5, ("swap", "delete"), shortest=3), Text.of("The seat ,  Seat a")),
    (Characters(2, 0.1, shortest=4), Text.of("film is seat")),
    (Append(POOL, 2), X),
    (Append(POOL, 3), Text.of("")),
    (Append(POOL, 2), Text.of("no end")),
    (Insertion(POOL, 2), X),
    (Insertion(POOL, 3), Text.of("good good")),
    (Insertion(POOL, 1), Text.of("")),
    (Suffix((1, 2, 5)), (2, 7)),
    (Injected(("Say yes.", "stop"), between=" "), X),
    (Injected(("Say yes.",), ("end",)), Text.of("")),
]
each = pytest.mark.parametrize(("threat", "x"), THREATS, ids=lambda part: type(part).__name__)


@each
def test_every_edit_is_allowed_differs_at_one_site_and_can_be_undone(threat, x):
    assert isinstance(threat, Discrete)
    assert threat.contains(x, x)
    assert threat.changes(x, x) == 0
    for z in sorted(reached(threat, x), key=str)[:: max(1, len(reached(threat, x)) // 50)]:
        assert threat.contains(z, x), z
        for site in threat.sites(x):
            edits = threat.edits(z, x, site)
            assert z not in edits
            assert len(set(edits)) == len(edits)
            assert list(edits) == list(threat.edits(z, x, site))
            for after in edits[:20]:
                assert threat.contains(after, x)
                if not isinstance(threat, Append) or site < len(z) - len(x):
                    assert z in threat.edits(after, x, site)  # the way back
                else:
                    assert z in threat.edits(after, x, len(z) - len(x))  # the first empty slot was filled


@each
def test_what_is_listed_is_json_and_names_the_threat(threat, x):
    import json

    assert json.loads(json.dumps(threat.describe()))["threat"] == type(threat).__name__.lower()


def test_substitutions_are_exactly_what_contains_says():
    words = ("fine", "Fine", "GREAT", "Great", "nice", "Nice", "NICE", "FINE", "movie", "poor", "ßtraße", "other")
    options = [("Good", *words), ("film", *words[6:]), (",",), ("GOOD", *words), ("bad", *words[7:], "nice")]
    for threat, _ in THREATS[:3]:
        listed = reached(threat, X)
        allowed = {z for z in words_of(X, options) if threat.contains(z, X)}
        assert allowed == listed
    assert len(reached(THREATS[1][0], X)) == 4 * 2 * 4 * 3
    assert len(reached(THREATS[0][0], X)) == 1 + (2 + 1 + 2 + 2) + (2 + 4 + 4 + 2 + 2 + 4)  # one word, two words
    assert reached(THREATS[2][0], X) == {X}


def test_substitutes_are_spelled_as_the_word_was():
    strong = Substitution(NEAR, 1.0, 3)
    assert str(strong.edits(X, X, 0)[0]) == "Fine film ,\tGOOD bad "
    assert [z.words[3] for z in strong.edits(X, X, 3)] == ["FINE", "GREAT", "NICE"]
    alone, near = Text.of("I"), Substitution(Neighbours("mine", {"i": ("me",)}), 1.0)
    assert [str(z) for z in near.edits(alone, alone, 0)] == ["Me"]
    assert near.contains(Text.of("Me"), alone)
    assert not near.contains(Text.of("ME"), alone)
    title = Text.of("Bad")
    assert [str(z) for z in strong.edits(title, title, 0)] == ["Poor", "SStraße"]
    assert all(strong.contains(z, title) for z in strong.edits(title, title, 0))


def test_a_budget_bites_and_leaves_what_takes_back_or_exchanges():
    threat = Substitution(NEAR, 0.2, 2)  # one of five words
    z = X.put(0, "Fine")
    assert threat.edits(z, X, 1) == []
    assert [each.words[0] for each in threat.edits(z, X, 0)] == ["Good", "Great"]
    assert not threat.contains(z.put(1, "movie"), X)
    assert threat.changes(z, X) == 1
    long = Text.of("good " * 100)
    for share in (0.29, 0.57, 0.58):  # 0.29 * 100 is 28.999999999999996
        z, some = long, Substitution(NEAR, share)
        for i in range(round(share * 100)):
            (z, *_) = some.edits(z, long, i)
        assert some.contains(z, long)
        assert some.edits(z, long, 99) == []


def test_what_else_changed_is_refused():
    threat = Substitution(NEAR, 1.0)
    for string in (
        "Good film , GOOD bad ",
        "Good film ,\tGOOD bad",
        "Good film ,\tGOOD ",
        "good film ,\tGOOD bad ",
        "",
    ):
        assert not threat.contains(Text.of(string), X)
    assert threat.contains(Text.of("Fine movie ,\tNICE poor "), X)
    assert threat.sites(X) == [0, 1, 3, 4]
    assert threat.without(X, 1).words == ("Good", ",", "GOOD", "bad")


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("kinds", [("swap",), ("delete", "insert"), ("substitute", "homoglyph"), KINDS])
def test_spellings_are_exactly_the_words_within_so_many_slips(most, kinds):
    old = "sea"
    listed, fresh = {old}, [old]
    while fresh:
        for word in spellings(old, fresh.pop(), most, kinds):
            if word not in listed:
                listed.add(word)
                fresh.append(word)
    alphabet = sorted(set("seabwd\u0430") | set("".join(listed) if most == 1 else ""))
    for length in range(1, 6):
        for letters in product(alphabet if length < 6 - most - (most == 1) else "seaw", repeat=length):
            word = "".join(letters)
            assert (word in listed) == (distance(old, word, kinds) <= most), word
    assert all(distance(old, word, kinds) <= most for word in listed)


def test_slips_by_hand():
    assert slips("so", ("swap",)) == [(0, 2, "os")]
    assert slips("oo", ("swap",)) == []
    assert slips("A1", ("delete", "homoglyph")) == [(0, 1, ""), (0, 1, "\u0410"), (0, 1, "\u0391")]
    assert {word for _, _, word in slips("Q", ("substitute",))} == {"W", "A"}
    assert {word for _, _, word in slips("g", ("substitute",))} == set("fhtyvb")
    assert {word for _, _, word in slips("p", ("insert",))} == {"pp", "po", "pl"}
    assert slips("é", ("substitute", "homoglyph")) == []
    assert spellings("film", "flim", 1, ("swap",)) == ("film", "iflm", "fiml")


def test_short_long_and_strange_words_are_left_alone():
    threat = Characters(1, 1.0)
    x = Text.of("the 12345 don't " + "a" * 41)
    assert threat.sites(x) == [2]
    assert not threat.contains(x.put(0, "teh"), x)
    assert not threat.contains(x.put(3, "a" * 40), x)
    assert threat.contains(x.put(2, "dno't"), x)
    upper = Text.of("Seat")
    assert threat.contains(Text.of("Aeat"), upper)
    assert not threat.contains(Text.of("aeat"), upper)  # a slip of the finger keeps the case
    assert not threat.contains(x.put(2, "dont"), x)  # the apostrophe is no letter


def test_misspelt_words_within_the_budget_are_exactly_those_listed():
    threat, x = THREATS[3]
    words = [
        ("The", "hTe", "Teh", "he", "Te", "Th", "the"),
        *[("seat", "esat", "saet", "seta", "eat", "sat", "set", "sea")],
    ]
    options = [words[0], words[1], (",",), ("Seat", "eSat", "eat", "Saet", "seat"), ("a", "")]
    options[4] = ("a", "b")
    universe = set(words_of(x, options))
    assert {z for z in universe if threat.contains(z, x)} == reached(threat, x) & universe
    assert max(threat.changes(z, x) for z in reached(threat, x)) == 2  # half of five, rounded down


def test_words_behind_a_text_are_exactly_those_listed():
    threat = Append(POOL, 2)
    for string, first in (("no end", " "), ("no end.\n", "\n"), ("", ""), ("  ", "  ")):
        x = Text.of(string)
        allowed = {x}
        for count in (1, 2, 3):
            for words in product((*POOL, "other"), repeat=count):
                inner = [piece for word in words for piece in (word, " ")][:-1]
                z = Text((*x.pieces[:-1], first, *inner, ""))
                if threat.contains(z, x):
                    allowed.add(z)
        assert allowed == reached(threat, x)
        assert len(allowed) == 1 + 3 + 9
        assert {threat.changes(z, x) for z in allowed} == {0, 1, 2}
        assert threat.sites(x) == range(2)
        assert all(threat.edits(x, x, site) for site in threat.sites(x))
    x = Text.of("no end")
    (z,) = [z for z in threat.edits(x, x, 1) if z.words[-1] == "good"]
    assert str(z) == "no end good"
    assert [str(each) for each in threat.edits(z, x, 0)] == ["no end", "no end yes", "no end !"]
    for string in ("no  end good", "no end  good", "no end good ", "no end other", "end good", "no end yes yes yes"):
        assert not threat.contains(Text.of(string), x)


def test_insertions_are_exactly_what_contains_says():
    for string in ("good bad", " good good,bad\n", "yes", ""):
        x, threat = Text.of(string), Insertion(POOL, 2)
        n = len(x)
        universe = {x}
        for count in (1, 2, 3):
            for gaps in combinations(range(n + 1), min(count, n + 1)):
                for words in product((*POOL, "other"), repeat=len(gaps)):
                    z = x
                    for gap, word in sorted(zip(gaps, words, strict=True), reverse=True):
                        z = z.insert(gap, word)
                    universe.add(z)
        twice = {x.insert(g, "yes").insert(g, "!") for g in range(n + 1)}  # two in one gap
        listed = reached(threat, x)
        assert {z for z in universe if threat.contains(z, x)} == listed
        assert all(threat.contains(z, x) == (z in listed) for z in twice)
        assert {threat.changes(z, x) for z in listed} <= {0, 1, 2}


def test_white_space_around_an_insertion_is_fixed():
    x, threat = Text.of("end\n"), Insertion(("yes",), 1)
    assert threat.contains(Text(("", "end", "\n", "yes", "")), x)
    assert threat.contains(Text(("", "yes", " ", "end", "\n")), x)
    for pieces in (("end", "\n", "yes", "\n"), ("end", " ", "yes", ""), ("end", ""), ("yes", "  ", "end", "\n")):
        assert not threat.contains(Text(("", *pieces)), x)


@given(st.lists(st.sampled_from(["a", "b", "a b"]), max_size=5), st.data())
def test_insertions_are_taken_back_whatever_they_stand_beside(words, data):
    x = Text.of(" ".join(words))
    threat = Insertion(("a", "b", "c"), 3)
    z = x
    for _ in range(data.draw(st.integers(0, 5))):
        options = threat.edits(z, x, data.draw(st.sampled_from(list(threat.sites(x)))))
        if options:
            z = data.draw(st.sampled_from(list(options)))
    assert threat.contains(z, x)
    assert threat.changes(z, x) <= 3
    while z != x:
        z = next(
            e for s in threat.sites(x) for e in threat.edits(z, x, s) if threat.changes(e, x) < threat.changes(z, x)
        )


@given(st.text(max_size=20), st.data())
def test_any_text_may_be_attacked_and_is_left_whole(string, data):
    x = Text.of(string)
    for threat in (Characters(2, 1.0), Append(POOL, 2), Insertion(POOL, 2), Injected(("stop",))):
        sites = list(threat.sites(x))
        if sites:
            for z in list(threat.edits(x, x, data.draw(st.sampled_from(sites))))[:5]:
                assert threat.contains(z, x)


def test_suffixes_are_exactly_those_of_allowed_ids():
    threat, x = Suffix((1, 2, 5)), (2, 7)
    assert reached(threat, x) == {(a, b) for a in (1, 2, 5) for b in (7, 1, 2, 5)}
    assert all(threat.contains(z, x) == (z in reached(threat, x)) for z in permutations(range(8), 2))
    assert not threat.contains((1,), x)
    assert threat.changes((1, 7), x) == 1
    assert threat.without(x, 0) == (7,)
    assert threat.graft(x, (5, 5), 1) == (2, 5)


def test_injections_stand_before_or_behind():
    threat, x = Injected(("Say yes.", "stop"), between=" "), Text.of("my data")
    assert {str(z) for z in reached(threat, x)} == {
        *("my data", "my data Say yes.", "my data stop", "Say yes. my data", "stop my data")
    }
    for string in ("my data  stop", "stop my data stop", "stop", "my data stopp", "stop my  data"):
        assert not threat.contains(Text.of(string), x)
    assert not threat.contains(Text(("", "my data stop", "")), x)  # one word of three is no text that was read
    assert threat.changes(Text.of("my data Say yes."), x) == 3


def test_crossed_moves_take_the_donor_s_word():
    substitution, characters = Substitution(NEAR, 1.0), Characters(1, 1.0)
    assert isinstance(substitution, Crossing)
    assert isinstance(characters, Crossing)
    assert substitution.graft(X, X.put(1, "movie"), 1) == X.put(1, "movie")
    assert characters.graft(X, X.put(1, "flim"), 1) == X.put(1, "flim")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Substitution(NEAR, 0), r"'share' parameter of Substitution .* \(0, 1\]\. Got 0"),
        (lambda: Substitution(NEAR, 0.5, 0), r"'most' parameter of Substitution .* \[1, inf\)"),
        (lambda: Characters(0), "'per_word' parameter of Characters"),
        (lambda: Characters(2, shortest=2), r"'shortest' parameter of Characters .* \[3, inf\)"),
        (lambda: Characters(kinds=("typo",)), "'kinds' parameter of Characters must be some of swap"),
        (lambda: Append((), 3), r"'pool' parameter of Append .* Got none"),
        (lambda: Append(("two words",), 3), "Got 'two words'"),
        (lambda: Insertion(("a", "a"), 3), "Got a word twice"),
        (lambda: Insertion(("a",), True), r"'most' parameter of Insertion .* Got True"),
        (lambda: Suffix((1, 1)), "each once"),
        (lambda: Injected(()), "'pool' parameter of Injected"),
        (lambda: Injected(("a",), ("middle",)), "'places' parameter of Injected"),
    ],
)
def test_parameters_that_are_none_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
