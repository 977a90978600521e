"""Instruction data as others publish it: read, refused where it is broken, and made into what the game trains on."""

import json
import os
from pathlib import Path

import pytest
import torch
from tests.text.chatting import chat, model

from sparring.core.game import play
from sparring.core.tools import Tools
from sparring.domains.text.files import DataError
from sparring.domains.text.injections import Appended, Attempt, completion, naive
from sparring.domains.text.instructions import Answered, alpaca, bipia, conversations
from sparring.domains.text.likelihood import log_likelihood
from sparring.domains.text.prompt import Chat, Query
from sparring.domains.text.tokens import ByteTokenizer
from sparring.systems import prompt_injection

REAL = Path(os.environ.get("SPARRING_DATA", "nowhere"))
needs_real = pytest.mark.skipif(
    not (REAL / "text_alpaca_1k").is_dir() or not (REAL / "redteam_bipia").is_dir(),
    reason="needs text_alpaca_1k and redteam_bipia below SPARRING_DATA",
)
CHAT = chat()
ROWS = [
    Answered(Query("name the bird", "a crow came"), "crow"),
    Answered(Query("count to three"), "one two three"),
    Answered(Query("name the animal", "a fox ran"), "fox"),
]


def test_a_row_gets_another_ones_instruction_and_its_answer_is_the_one_not_wanted() -> None:
    source = conversations(ROWS, CHAT, torch.Generator().manual_seed(0), injection=naive, draws=4)
    assert source.x.shape[:3] == (2, 5, 2)  # the row without data is left out, and may be injected
    queries = {f"{row.query.instruction} {row.query.data}".strip(): row.answer for row in ROWS}
    for row, planes in zip((ROWS[0], ROWS[2]), source.x, strict=True):
        for right, wrong in planes[1:]:
            texts = [CHAT.text(ids[ids != 0].tolist()) for ids in (right, wrong)]
            prompt, said = texts[0].split("<|answer|> ")
            assert said == f"{row.answer}<|end|>"
            injected = prompt.split("<|data|> ")[1].removeprefix(f"{row.query.data} . ")
            assert texts[1] == f"{prompt}<|answer|> {queries[injected]}<|end|>"


def test_the_game_trains_on_it() -> None:
    source = conversations(ROWS, CHAT, torch.Generator().manual_seed(0), injection=completion, draws=2)
    lm = model(CHAT)
    game = prompt_injection.game(
        prompt_injection.Config("secalign", draws=2),
        model=lm,
        optimizer=torch.optim.SGD(lm.parameters(), lr=0.02),
        tools=Tools(rng=torch.Generator().manual_seed(0)),
    )
    losses = [metrics["loss"].item() for metrics in play(game, [source.take(torch.arange(2))] * 5)]
    assert losses[-1] < losses[0]


def test_what_is_too_long_is_left_out_and_nothing_left_is_refused() -> None:
    long = Answered(Query("name it", "word " * 300), "word")
    for row in conversations([*ROWS, long], CHAT, torch.Generator().manual_seed(1), injection=naive).x:
        assert "word word" not in CHAT.text(row[1, 1].tolist())
    with pytest.raises(DataError, match="at most 256 tokens"):
        conversations([long, long], CHAT, torch.Generator().manual_seed(0), injection=naive)


def test_broken_files_are_refused_by_row(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    for held, said in (
        ("{", "must be JSON"),
        ("{}", "must hold a JSON list"),
        ('[{"instruction": "a", "input": "", "output": "b"}, {"instruction": 3}]', "row 2: must have the strings"),
    ):
        file.write_text(held)
        with pytest.raises(DataError, match=said):
            alpaca(file)
    file.write_text(
        '[{"instruction": " a ", "input": "", "output": "b"}, {"instruction": "", "input": "", "output": "c"}]'
    )
    assert alpaca(file) == [Answered(Query("a"), "b")]
    file.write_text(json.dumps({"kind": ["say it", 3]}))
    with pytest.raises(DataError, match="lists of strings"):
        bipia(file)
    with pytest.raises(DataError, match="cannot be read"):
        bipia(tmp_path / "none.json")


@needs_real
def test_alpaca_and_bipia_are_read_whole_and_bipia_can_be_injected_into_alpaca() -> None:
    rows = alpaca(REAL / "text_alpaca_1k" / "alpaca_en_demo.json")
    assert len(rows) == 1000
    assert sum(bool(row.query.data) for row in rows) == 412
    attacks = {split: bipia(REAL / "redteam_bipia" / f"text_attack_{split}.json") for split in ("train", "test")}
    told = {split: [one for each in kinds.values() for one in each] for split, kinds in attacks.items()}
    assert [len(each) for each in told.values()] == [75, 75]
    assert not set(told["train"]) & set(told["test"])
    prompts = Chat(ByteTokenizer.fit([f" {row.query.instruction} {row.query.data}" for row in rows], most=2000))
    source = conversations(rows, prompts, torch.Generator().manual_seed(0), injection=naive)
    assert len(source) > 150
    lm = model(prompts, layers=1)
    with torch.no_grad():
        assert log_likelihood(lm, source.take(torch.arange(4))[0][:, 1, 1]).isfinite().all()
    row = next(row for row in rows if row.query.data)
    for instruction in told["test"]:
        z = naive(Attempt(row.query.data, instruction, "", torch.Generator(), True))
        assert Appended().contains(z, row.query.data)
