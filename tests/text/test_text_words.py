"""Texts as words and gaps: nothing is lost, whatever the script, and edits touch what they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.domains.text.words import Text, words_in

strings = st.text(max_size=40) | st.lists(
    st.sampled_from(
        ["a", "B", "'", "’", "é", "e\u0301", " ", "\t", "\n", "שלום", "مرحبا", "\u200d", "\ufe0f", "👩", "🇩", "字"]
    )
).map("".join)

family = "👨\u200d👩\u200d👧"
wave = "👋🏽"


@given(strings)
def test_no_character_is_lost(string):
    text = Text.of(string)
    assert str(text) == string
    assert all(not gap or gap.isspace() for gap in text.gaps)
    assert not any(c.isspace() for word in text.words for c in word)
    assert [string[start:end] for start, end in text.spans()] == list(text.words)
    assert words_in(string) == list(text.words)
    assert Text(text.pieces) == text
    assert hash(Text(text.pieces)) == hash(text)


@pytest.mark.parametrize(
    ("string", "words"),
    [
        ("", []),
        (" \t\n", []),
        ("It's a well-made film, isn't it?!", ["It's", "a", "well", "-", "made", "film", ",", "isn't", "it", "?", "!"]),
        ("'quoted' l’eau 9.5", ["'", "quoted", "'", "l’eau", "9", ".", "5"]),
        ("rock'n'roll rock’n’roll", ["rock'n'roll", "rock’n’roll"]),
        ("שלום, עולם! مرحبًا", ["שלום", ",", "עולם", "!", "مرحبًا"]),
        (f"so{family}{wave}🇩🇪🇫🇷!", ["so", family, wave, "🇩🇪", "🇫🇷", "!"]),
        ("ca\u0301fe\u0301 नमस्ते می\u200cخواهم", ["ca\u0301fe\u0301", "नमस्ते", "می\u200cخواهم"]),
        ("我喜欢 カメラ한국어", ["我", "喜", "欢", "カ", "メ", "ラ", "한국어"]),
        ("1\ufe0f\u20e3 ❤\ufe0f", ["1\ufe0f\u20e3", "❤\ufe0f"]),
        ("zero\u200bwidth", ["zero", "\u200b", "width"]),
    ],
)
def test_what_a_word_is(string, words):
    assert list(Text.of(string).words) == words
    assert list(Text.of(string + " é").words) == [*words, "é"]  # the same beside a character that is not ASCII


def test_edits_touch_one_word():
    text = Text.of(" A fine\tfilm. ")
    assert str(text.put(1, "poor")) == " A poor\tfilm. "
    assert str(text.insert(0, "not")) == " not A fine\tfilm. "
    assert str(text.insert(3, "really")) == " A fine\tfilm really . "
    assert str(text.insert(4, "yes")) == " A fine\tfilm. yes"
    assert str(Text.of("").insert(0, "yes")) == "yes"
    assert str(text.remove(1)) == " A\tfilm. "
    assert str(text.remove(0)) == " fine\tfilm. "
    assert str(text.remove(3)) == " A fine\tfilm "
    assert str(Text.of("one").remove(0)) == ""
    assert str(Text.of("one two").remove(0)) == "two"
    assert len(text) == 4


@given(strings, st.data())
def test_an_insertion_is_undone_by_removing_it_up_to_white_space(string, data):
    text = Text.of(string)
    gap = data.draw(st.integers(0, len(text)))
    longer = text.insert(gap, "word")
    assert longer.words == (*text.words[:gap], "word", *text.words[gap:])
    assert longer.remove(gap).words == text.words


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match="odd number of strings"):
        Text(("", "word"))
    with pytest.raises(ValueError, match="no word empty"):
        Text(("", "", ""))
    with pytest.raises(IndexError, match=r"range \[0, 1\)"):
        Text.of("one").put(1, "two")
    with pytest.raises(IndexError, match=r"range \[0, 1\]"):
        Text.of("one").insert(2, "two")
