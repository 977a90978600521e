"""Tokenizers: ids, lengths and spans by hand, round trips of any string, and what is written is what is read."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparring.domains.text.tokens import ByteTokenizer, TokenizerError, WordTokenizer, from_bytes
from sparring.domains.text.words import Text

TEXTS = ["A fine film, a fine film.", "a dull film", "the dull dull plot", "שלום עולם שלום", "go 👩‍🚀👋🏽 go", "don't"]
WORD = WordTokenizer.fit(TEXTS)
BYTE = ByteTokenizer.fit(TEXTS * 3, most=300)


def test_words_are_ranked_by_how_often_they_are_there_then_by_spelling():
    assert WORD.words == ("a", "dull", "film", "fine", "go", "שלום")
    assert WordTokenizer.fit(TEXTS, most=2).words == ("a", "dull")
    assert WORD.vocab_size == 8
    assert [WORD.id(word) for word in ("A", "Film", "plot", "שלום")] == [2, 4, 1, 7]


def test_ids_are_padded_to_the_longest_row_and_cut_at_the_length():
    texts = ["A FINE film!", "", "dull", " \n"]
    assert WORD.encode(texts, 10).tolist() == [[2, 5, 4, 1], [1, 0, 0, 0], [3, 0, 0, 0], [1, 0, 0, 0]]
    assert WORD.encode(texts, 2).tolist() == [[2, 5], [1, 0], [3, 0], [1, 0]]
    assert WORD.count(texts).tolist() == [4, 1, 1, 1]
    assert WORD.encode([], 5).shape[0] == 0
    assert WORD.decode([2, 1, 4, 0, 0]) == "a <unk> film"
    assert WORD.encode(["dull"], 5).dtype == torch.long


@given(st.text(max_size=30))
def test_every_string_comes_back_from_its_bytes(string):
    ids = BYTE.encode([string], 1000)
    assert BYTE.decode(ids[0].tolist()) == string
    assert len(ids[0]) == int(BYTE.count([string])) == len(BYTE.spans(string))
    assert int(ids.min()) >= 1
    assert BYTE.unk not in ids or string == ""


@pytest.mark.parametrize("string", ["שלום, עולם", "مرحبًا بالعالم", "👨‍👩‍👧👋🏽🇩🇪", "e\u0301 नमस्ते", "a\tb\n c  "])
def test_right_to_left_and_emoji_survive(string):
    assert str(Text.of(string)) == string
    assert BYTE.decode(BYTE.encode([string], 99)[0].tolist()) == string


@pytest.mark.parametrize("tokenizer", [WORD, BYTE])
def test_spans_say_which_characters_a_token_is_of(tokenizer):
    string = "A fine film, שלום 👋🏽"
    spans = tokenizer.spans(string)
    assert len(spans) == int(tokenizer.count([string]))
    assert spans[0][0] == 0
    assert max(end for _, end in spans) == len(string)
    for k, (start, end) in zip(tokenizer.encode([string], 99)[0].tolist(), spans, strict=True):
        if string[start:end].isascii():  # a token of a part of a character has the span of all of it
            assert tokenizer.decode([k]) in (string[start:end].lower(), string[start:end], "<unk>")
    assert tokenizer.spans("") == [(0, 0)]


def test_nothing_that_is_typed_is_a_special_token():
    ids = BYTE.encode(["<pad><unk>"], 99)
    assert not ((ids == BYTE.pad) | (ids == BYTE.unk)).any()
    assert BYTE.decode(ids[0].tolist()) == "<pad><unk>"
    assert BYTE.decode(BYTE.encode(["a\ud800b"], 99)[0].tolist()) == "a?b"


@pytest.mark.parametrize("tokenizer", [WORD, BYTE])
def test_what_is_written_is_read_again(tokenizer):
    again = from_bytes(tokenizer.to_bytes())
    assert type(again) is type(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(TEXTS, 40).equal(tokenizer.encode(TEXTS, 40))
    json.loads(tokenizer.to_bytes())


def test_the_same_texts_make_the_same_tokenizer_and_others_another():
    assert ByteTokenizer.fit(TEXTS * 3, most=300).fingerprint == BYTE.fingerprint
    assert WordTokenizer.fit(iter(TEXTS)).fingerprint == WORD.fingerprint
    assert WordTokenizer.fit(TEXTS[:-2]).fingerprint != WORD.fingerprint


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"format": 2, "kind": "word", "words": []}', b'{"format": 1}'])
def test_what_is_no_tokenizer_is_refused(data):
    with pytest.raises(TokenizerError, match="to_bytes"):
        from_bytes(data)


def test_bad_parameters_are_named():
    with pytest.raises(TokenizerError, match="'a' twice"):
        WordTokenizer(("a", "b", "a"))
    with pytest.raises(TokenizerError, match=r"\[256, inf\)"):
        ByteTokenizer.fit(TEXTS, most=10)
    with pytest.raises(ValueError, match="'length'"):
        WORD.encode(TEXTS, 0)
