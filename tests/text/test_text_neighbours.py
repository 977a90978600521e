"""Sets of substitutes: by hand from pairs, tables, embeddings and a WordNet written for the test; real ones where there
are any."""

from pathlib import Path

import pytest
import torch
from texts import DATA, needs_texts

from sparring.domains.text.files import DataError
from sparring.domains.text.neighbours import Neighbours, from_pairs, from_table, nearest, ppdb, wordnet
from sparring.domains.text.tokens import WordTokenizer

PAIRS = [
    ("Good", "fine"),
    ("good", "great"),
    ("good", "great"),
    ("good", "bad"),
    ("good", "good"),
    ("good", "very good"),
    ("film", "movie"),
]


def test_pairs_are_ranked_by_how_often_they_are_given_and_antonyms_left_out():
    found = from_pairs(PAIRS, without=[("bad", "GOOD")])
    assert found.sets == {"good": ("great", "fine"), "film": ("movie",)}
    assert found.of("GOOD") == ("great", "fine")
    assert found.of("movie") == ()
    assert len(found) == 2


def test_a_table_of_ids_is_filled_up_with_the_word_itself():
    tokenizer = WordTokenizer(("good", "film", "great", "fine", "movie"))
    found = from_pairs(PAIRS, without=[("bad", "good")])
    assert found.table(tokenizer, 3).tolist() == [
        *([0] * 3, [1] * 3),
        *([4, 5, 2], [6, 3, 3], [4] * 3, [5] * 3, [6] * 3),
    ]
    small = WordTokenizer(("good", "fine"))
    assert found.table(small, 1).tolist() == [[0], [1], [3], [3]]
    assert found.within(small).sets == {"good": ("fine",)}


def test_a_table_of_your_own(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("# mine\nGood\tfine\tGREAT\n\ngood\tnice fine\nשלום\tאהלן\n", encoding="utf-8")
    found = from_table(path)
    assert found.sets == {"good": ("fine", "great", "nice"), "שלום": ("אהלן",)}
    assert found.source == "mine.tsv"
    for text, message in (
        ("good fine\nbad\n", r"line 2: must be a word and its substitutes, single words\. Got only 'bad'"),
        ("good well-made\n", "line 1: .* Got 'well-made'"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            from_table(path)
    path.write_bytes(b"good fine\nbad \xff\n")
    with pytest.raises(DataError, match="line 2: must be UTF-8"):
        from_table(path)
    with pytest.raises(DataError, match="No such file"):
        from_table(tmp_path / "none.tsv")


def test_nearest_embeddings_by_hand():
    tokenizer = WordTokenizer(("up", "high", "right", "down"))
    weight = torch.tensor([[9.0, 9.0], [0.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0], [0.0, -2.0]])
    found = nearest(weight, tokenizer, most=2, least=0.5)
    assert found.sets == {"up": ("high",), "high": ("up", "right"), "right": ("high",)}
    assert nearest(weight, tokenizer, most=1, least=-1).sets["down"] == ("right",)
    with pytest.raises(ValueError, match=r"each of 6 ids\. Got 5"):
        nearest(weight[1:], tokenizer)


def test_what_are_no_substitutes_is_refused():
    with pytest.raises(ValueError, match=r"single lower-case words\. Got 'Good'"):
        Neighbours("mine", {"Good": ("fine",)})
    with pytest.raises(ValueError, match="each once"):
        Neighbours("mine", {"good": ("fine", "fine")})
    with pytest.raises(ValueError, match="other words"):
        Neighbours("mine", {"good": ("good",)})


def test_sets_are_named_by_what_is_in_them():
    one, other = Neighbours("a", {"b": ("c",), "d": ("e",)}), Neighbours("a", {"d": ("e",), "b": ("c",)})
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != Neighbours("a", {"b": ("c", "e"), "d": ("e",)}).fingerprint
    assert one.describe() == {"source": "a", "words": 2, "fingerprint": one.fingerprint}


def wordnet_of(folder: Path) -> Path:
    """Three synsets of adjectives, one of nouns, in the form of the real files."""
    licence = "  1 This software and database is being provided to you.\n"
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"index.{part}").write_text(licence)
        (folder / f"data.{part}").write_text(licence)
    (folder / "data.adj").write_text(
        licence
        + "00000100 00 a 03 good 0 honorable 0 Well_Made 0 001 ! 00000200 a 0101 | of moral excellence; `a good man`\n"
        + "00000200 00 s 0b good 1 dear 0 near(ip) 0 x 0 y 0 z 0 u 0 v 0 w 0 r 0 s 0 000 | close | by\n"
        + "00000300 00 a 01 only_this 0 000 | nobody\n"
    )
    (folder / "index.adj").write_text(
        licence
        + "good a 2 2 ! & 2 1 00000200 00000100  \n"
        + "near a 1 0 1 0 00000200  \nonly_this a 1 0 1 0 00000300  \n"
    )
    (folder / "data.noun").write_text(
        licence + "00000400 03 n 02 Good 0 goodness 0 000 | that which is pleasing\n"
        "00000500 03 n 02 good 1 commodity 0 000 | article of commerce\n"
    )
    (folder / "index.noun").write_text(licence + "good n 2 1 @ 2 1 00000400 00000500  \n")
    return folder


def test_wordnet_s_files_are_read_the_most_frequent_senses_first(tmp_path):
    found = wordnet(wordnet_of(tmp_path))
    first = ("goodness", "dear", "near", "x", "y", "z", "u", "v", "w", "r", "s")
    assert found.of("good") == (*first, "commodity", "honorable")
    assert found.of("near")[:2] == ("good", "dear")
    assert found.of("only_this") == ()
    (tmp_path / "index.verb").write_text("go v\n")
    with pytest.raises(DataError, match=r"index\.verb, line 1"):
        wordnet(tmp_path)
    with pytest.raises(DataError, match="wordnet-base"):
        wordnet(tmp_path / "nowhere")


def test_ppdb_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match=r"text_synonyms\nPut its files"):
        ppdb(tmp_path)


@needs_texts
def test_ppdb_is_nearly_symmetric_and_has_no_antonym():
    found = ppdb(DATA)
    assert len(found) > 15_000
    assert found.of("film") == ("movie", "movies")
    assert found.of("terrible")[:2] == ("awful", "dreadful")
    one_way = [(a, b) for a, others in found.sets.items() for b in others if a not in found.of(b)]
    assert len(one_way) < 20
    antonyms = {
        tuple(line.split()) for line in (Path(DATA) / "text_synonyms/wordnet_antonyms.txt").read_text().splitlines()
    }
    assert not [(a, b) for a, b in antonyms if b in found.of(a)]
