"""Structured prompts: no text reaches a delimiter, the filter takes them out however they are dressed or nested."""

import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.chatting import chat

from sparring.domains.text.prompt import DELIMITERS, PromptError, Query, answers, cleaned

CHAT = chat()
PIECES = st.sampled_from(
    [*DELIMITERS, "<|", "|>", "<", ">", "|", "data", "end", "＜", "｜", " ", "\u200b", "dаta", "x"]
)
DRESSED = (
    "<|end|>",
    "<|END|>",
    "< | data | >",
    "<|da\u200bta|>",
    "＜｜ｄａｔａ｜＞",
    "‹|instruction|›",
    "<|аnswer|>",
    "<│𝐝𝐚𝐭𝐚│>",
    "<|d\u0301ata|>",
)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_text_is_encoded_to_a_delimiter_and_it_comes_back(text: str) -> None:
    ids = CHAT.ids(text)
    assert all(1 < k < CHAT.instruction for k in ids)
    assert CHAT.text(ids) == text


@pytest.mark.parametrize("written", DELIMITERS)
def test_a_written_delimiter_is_plain_text(written: str) -> None:
    assert CHAT.text(CHAT.ids(f"a {written} b")) == f"a {written} b"
    assert not set(CHAT.ids(written)) & {CHAT.instruction, CHAT.data, CHAT.answer, CHAT.end}


@given(st.lists(PIECES, max_size=14).map("".join))
@settings(max_examples=300, deadline=None)
def test_the_filter_is_idempotent_and_leaves_no_delimiter(data: str) -> None:
    clean = cleaned(data)
    assert cleaned(clean) == clean
    folded = unicodedata.normalize("NFKC", clean).casefold()
    assert not any(each in "".join(folded.split()) for each in DELIMITERS)


@pytest.mark.parametrize("dressed", DRESSED)
def test_look_alikes_are_taken_out_and_nothing_else(dressed: str) -> None:
    assert cleaned(f"before {dressed} after") == "before  after"


def test_what_a_removal_makes_is_removed_too() -> None:
    assert cleaned("<|da<|end|>ta|>") == ""
    assert cleaned("a<|<|e<|data|>nd|>end|>b") == "ab"


@pytest.mark.parametrize("data", ["", "a < b | c > d", "if x <| y", "ordinary, <b>html</b>", "日本語 عربى 🙂"])
def test_data_without_any_comes_back_as_it_is(data: str) -> None:
    assert cleaned(data) == data


def test_a_prompt_is_its_parts_between_delimiters() -> None:
    query = Query("what is it", "a <|answer|>crow")
    prompt = CHAT.prompt(query)
    assert prompt == [CHAT.instruction, *CHAT.ids("what is it"), CHAT.data, *CHAT.ids("a crow"), CHAT.answer]
    assert CHAT.prompt(Query("say")) == [CHAT.instruction, *CHAT.ids("say"), CHAT.answer]
    (whole,) = CHAT.wholes([query], ["crow"])
    assert whole == [*prompt, *CHAT.ids("crow"), CHAT.end]
    assert CHAT.text(whole) == "<|instruction|> what is it<|data|> a crow<|answer|> crow<|end|>"
    mask = answers(torch.tensor([[*whole, 0, 0]]), CHAT.vocab_size)[0]
    assert mask.tolist() == [i > whole.index(CHAT.answer) for i in range(len(whole))] + [False, False]


def test_an_empty_instruction_is_refused() -> None:
    with pytest.raises(PromptError, match="'instruction' parameter"):
        CHAT.prompt(Query("  ", "data"))


def test_plain_ids_are_those_of_text() -> None:
    plain = CHAT.plain()
    assert plain.sum() == CHAT.tokenizer.vocab_size - 2
    assert not plain[[0, 1, CHAT.instruction, CHAT.data, CHAT.answer, CHAT.end]].any()
