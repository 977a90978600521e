"""A reader of WordNet 3's database files, as distributions package them (`wordnet-base` on Debian).

A line of `index.POS` names a lemma and its synsets, the most frequent sense first: `lemma pos synset_cnt p_cnt
[symbol]*p_cnt sense_cnt tagsense_cnt offset*synset_cnt`. A line of `data.POS` is a synset: `offset lex_filenum ss_type
w_cnt (word lex_id)*w_cnt ...`, w_cnt in hexadecimal. Lines that begin with a space are the licence. Source of the
formats: the manual page wndb(5WN).
"""

from collections.abc import Iterator
from pathlib import Path

from sparring.domains.text.files import DataError

FOLDER = "/usr/share/wordnet"
"""Where distributions put the files."""

PARTS = ("noun", "verb", "adj", "adv")


def synonyms(folder: str | Path | None = None) -> dict[str, tuple[str, ...]]:
    """The lower-case words that share a synset with each word, those of its most frequent senses first; compounds,
    which have an underscore, are left out.

    Args:
        folder: with `index.*` and `data.*`; by default where distributions put them.

    Raises:
        DataError: where the files are not there, or a line is not as the format has it.
    """
    place = Path(folder if folder is not None else FOLDER)
    senses: dict[str, list[tuple[int, str]]] = {}
    for part in PARTS:
        words = dict(_synsets(place / f"data.{part}"))
        for lemma, offsets in _lemmas(place / f"index.{part}"):
            for rank, offset in enumerate(offsets):
                found = [(rank, other) for other in words.get(offset, ()) if other != lemma]
                if found:
                    senses.setdefault(lemma, []).extend(found)
    return {
        lemma: tuple(dict.fromkeys(other for _, other in sorted(found, key=lambda sense: sense[0])))
        for lemma, found in senses.items()
    }


def _lemmas(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, cells in _lines(path):
        try:
            pointers = int(cells[3])
            offsets = cells[6 + pointers : 6 + pointers + int(cells[2])]
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}, line {number}: must be a lemma as wndb(5WN) has it.") from error
        if "_" not in cells[0]:
            yield cells[0].lower(), offsets


def _synsets(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Offset and words of each synset that has two single words at least."""
    for number, cells in _lines(path):
        try:
            count = int(cells[3], 16)
            words = cells[4 : 4 + 2 * count : 2]
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}, line {number}: must be a synset as wndb(5WN) has it.") from error
        single = tuple(dict.fromkeys(word.partition("(")[0].lower() for word in words if "_" not in word))
        if len(single) > 1:  # an adjective may have its place in brackets: `galore(ip)`
            yield cells[0], single


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.startswith(" "):
                    yield number, line.partition("|")[0].split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} must be a file of WordNet 3's database: {error}. Debian has it as wordnet-base; pass the folder "
            "of another copy."
        ) from error
