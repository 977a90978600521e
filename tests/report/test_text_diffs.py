"""Attacked texts on a page: nothing of a text is lost or added, what the eye misses is named, markup is only text."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring import report
from sparring.report import attacked, markdown, publish, text_diffs
from sparring.report.attacked import Account
from sparring.report.read import ReportError
from sparring.report.text_diffs import Attacked, marked, pieces, visible

from .factory import record, write_run

HOSTILE = "<script>alert(1)</script> & <ins>great</ins> `*_|"


def text(line: int = 2, result: str = "fell", original: str = "a great film", after: str = "a dull film") -> Attacked:
    return Attacked(line, "good", result, "greedy", original, after, "good", "bad", 0.9, 0.2, 1, 12)  # type: ignore[arg-type]


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_diff_holds_both_texts_and_nothing_else(before: str, after: str) -> None:
    found = pieces(before, after)
    assert "".join(p.text for p in found if p.kind != "in") == visible(before)
    assert "".join(p.text for p in found if p.kind != "out") == visible(after)
    assert all(p.text for p in found)


@given(st.text(max_size=40))
def test_equal_texts_have_no_changes(string: str) -> None:
    assert {p.kind for p in pieces(string, string)} <= {"kept"}
    assert marked(string, string) == visible(string)


def test_changes_are_word_by_word() -> None:
    found = [(p.kind, p.text) for p in pieces("a great film, truly", "a dull film, truly so")]
    assert found == [("kept", "a "), ("out", "great"), ("in", "dull"), ("kept", " film, truly"), ("in", " so")]
    assert marked("a great film, truly", "a dull film, truly so") == "a [great→dull] film, truly[→ so]"
    assert marked("a great film", "a film") in ("a [great →]film", "a[ great→] film")


def test_letters_that_look_alike_are_named_by_their_code_points() -> None:
    (_, out, new, _) = pieces("a great film", "a gr\u0435at film")  # a Cyrillic e
    assert (out.text, new.text, new.note) == ("great", "gr\u0435at", "U+0435")
    assert pieces("a café bar", "a cafe bar")[2].note == ""
    assert pieces("été", "été été")[-1].note == ""


def test_what_cannot_be_seen_or_turns_the_line_is_written_out() -> None:
    assert visible("a\u200bb\u202ec\x07") == "a⟨U+200B⟩b⟨U+202E⟩c⟨U+0007⟩"
    assert visible("שלום 👩‍👩‍👧\n\tx") == "שלום 👩‍👩‍👧\n\tx"


def test_kept_texts_come_back_and_other_files_are_refused(tmp_path: Path) -> None:
    texts = [text(), text(3, "stands", "שלום \ud800"), text(4, "wrong", HOSTILE)]
    (tmp_path / text_diffs.FILE).write_text(text_diffs.to_json(texts))
    assert text_diffs.read(tmp_path) == texts
    assert text_diffs.read(tmp_path / "none") == []
    held = json.loads(text_diffs.to_json(texts))
    first = held["texts"][0]
    odd = [{**held, "texts": [{**first, **change}]} for change in ({"result": "flew"}, {"line": "2"}, {"extra": 1})]
    for broken in ({**held, "format": 2}, {"format": 1}, [], *odd):
        (tmp_path / text_diffs.FILE).write_text(json.dumps(broken))
        with pytest.raises(ReportError, match=r"attacked_texts\.json must hold attacked texts of format 1"):
            text_diffs.read(tmp_path)


def account(**changes: object) -> Account:
    told = {"fell": 1, "of": 2, "queries": 12.0, "changes": 1.0, "settings": "share 0.2"}
    checks = [{"name": "verified", "verdict": "pass", "figure": "0 of 2", "advice": "x"}]
    made = {
        "model": "run", "data": "texts.csv", "texts": [text(), text(3, "stands"), text(4, "wrong")],
        "attacks": {"greedy": told}, "checks": checks, "notes": ["From ppdb."], "warnings": [],
        "command": "sparring attack text run --input texts.csv", "seed": 0,
    }  # fmt: skip
    return Account(**{**made, **changes})  # type: ignore[arg-type]


def test_the_page_of_an_attack_counts_right() -> None:
    page = attacked.assemble(account())
    assert page.cards[0].sentence == "run gets 2 of 3 texts right; 1 are still right under attack."
    assert [number.value for number in page.cards[0].numbers] == ["66.7 %", "33.3 %"]
    html = publish.html(page)
    assert "a <del>great</del><ins>dull</ins> film" in html
    assert "1 of 2" in html
    assert html.count("<li><p class") == 2
    assert "~~great~~**dull**" in markdown.render(page)


def test_a_hostile_text_stays_text() -> None:
    texts = [text(original=f"{HOSTILE} film", after=f"{HOSTILE} {HOSTILE}")]
    html = publish.html(attacked.assemble(account(texts=texts, model=HOSTILE, warnings=[HOSTILE])))
    assert "<script>" not in html
    assert "alert(1)" in html


def test_a_page_about_nothing_is_a_page() -> None:
    html = publish.html(
        attacked.assemble(account(texts=[], attacks={"greedy": {**account().attacks["greedy"], "of": 0}}))
    )
    assert "no texts" in html


def test_more_texts_than_are_shown_are_drawn_by_the_seed() -> None:
    texts = [text(line) for line in range(2, 102)]
    one, same, other = (text_diffs.shown(texts, 10, seed) for seed in (0, 0, 1))
    assert one == same != other
    assert len(one.rows) == 10
    assert one.caption.startswith("10 of 100 texts, drawn at random with seed 0, not selected.")


@pytest.mark.usefixtures("no_plots")
def test_a_report_shows_the_texts_of_a_run(tmp_path: Path) -> None:
    held = {**record("text-at"), "text": {"data": "sst2"}}
    run, bare = write_run(tmp_path / "a", held), write_run(tmp_path / "b", held)
    (run / text_diffs.FILE).write_text(text_diffs.to_json([text(), text(3, "wrong", "never shown")]))
    written = report.write([run, bare], tmp_path / "out")
    page = written.markdown.read_text()
    section = page.split("## Adversarial examples")[1].split("\n## ")[0]
    assert (
        "**Falls**, line 2 · good → bad · 90 % → 20 % · greedy · 1 word · 12 queries: a ~~great~~**dull** film"
        in section
    )
    assert "never shown" not in section
    assert "No attacked texts are kept with this run." in section
    assert "examples.safetensors" not in section
