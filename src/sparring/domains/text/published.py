"""Published sets of labelled texts: the files they come as, and what their labels mean."""

from dataclasses import replace
from pathlib import Path

from sparring.domains.text.files import DataError, folder_of, lines_of
from sparring.domains.text.labelled import Rows, TextData, assembled, labelled
from sparring.domains.text.records import Aside, read

STYLES = ("bible", "lyrics", "poetry", "shakespeare", "tweets")
TWEETS = ("hate", "offensive", "irony", "emotion")

NAMES = (
    *("sst2", *(f"sst2-style-{style}" for style in STYLES), "agnews", "sms-spam", "davidson", "hate-forum"),
    *(f"tweeteval-{task}" for task in TWEETS),
)
"""The sets that `published` knows."""

FOLDERS = {"agnews": "text_agnews", "sms-spam": "text_sms_spam", "davidson": "text_davidson_hate"}

SENTIMENT = {"0": "negative", "1": "positive"}
TOPICS = {"0": "world", "1": "sports", "2": "business", "3": "sci/tech"}
HATE = {"0": "noHate", "1": "hate"}
SPEECH = {"0": "hate", "1": "offensive", "2": "neither"}


def published(name: str, root: str | Path | None = None) -> TextData:
    """A set by name.

    sst2: Socher et al. 2013, two classes, three splits. sst2-style-STYLE: the same sentences rewritten; tweets has no
    test, its validation is it. agnews: Zhang et al. 2015, 12,000 for training with labels from 0, 7,600 for the test
    with labels from 1. sms-spam: Almeida et al. 2011. davidson: Davidson et al. 2017. hate-forum: de Gibert et al.
    2018. tweeteval-TASK: Barbieri et al. 2020.

    Args:
        name: one of `NAMES`.
        root: folder that the set's own is looked for in; by default the environment variable SPARRING_DATA.

    Raises:
        DataError: where it is not there, or its files are not as they were published.
    """
    if name in ("sst2", "hate-forum"):
        folder = folder_of(name, f"text_{name.replace('-', '_')}", root)
        train, dev, test = (labelled(read(folder / f"{part}.tsv")) for part in ("train", "dev", "test"))
        return assembled(name, train, dev, test, SENTIMENT if name == "sst2" else HATE)
    if name.startswith("sst2-style-"):
        folder, style = folder_of(name, "text_sst2_style", root), name.removeprefix("sst2-style-")
        train, dev = (labelled(read(folder / f"{style}_{part}.tsv")) for part in ("train", "dev"))
        path = folder / f"{style}_test.tsv"
        return assembled(name, train, dev, labelled(read(path)) if path.is_file() else None, SENTIMENT)
    if name.startswith("tweeteval-"):
        folder, task = folder_of(name, "text_tweeteval", root), name.removeprefix("tweeteval-")
        mapping = dict(row.split("\t") for row in _decoded(folder / f"{task}_mapping.txt") if row)
        train, dev, test = (_paired(folder, f"{task}_{part}") for part in ("train", "val", "test"))
        return assembled(name, train, dev, test, mapping)
    folder = folder_of(name, FOLDERS[name], root)
    if name == "agnews":
        train = labelled(read(folder / "train_12k.csv"))
        test = labelled(read(folder / "test.csv", ("label", "title", "text")), ("title", "text"))
        found = [(row, text.replace("\\", " "), str(int(kind) - 1)) for row, text, kind in test.found]
        return assembled(name, train, test=replace(test, found=found), names=TOPICS)  # train has spaces for backslashes
    if name == "sms-spam":
        return assembled(name, labelled(read(folder / "SMSSpamCollection.tsv")))
    return assembled(name, labelled(read(folder / "labeled_data.csv"), "tweet", "class"), names=SPEECH)


def _paired(folder: Path, stem: str) -> Rows:
    """A file of texts and one of labels, line by line."""
    path = folder / f"{stem}_text.txt"
    texts, labels = lines_of(path), _decoded(folder / f"{stem}_labels.txt")
    if len(texts) != len(labels):
        raise DataError(f"{path} must have as many lines as there are labels, {len(labels)}. Got {len(texts)}.")
    found, aside = [], []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), 1):
        try:
            found.append((number, text.decode(), label.strip()))
        except UnicodeDecodeError:
            aside.append(Aside(path.name, number, "is not UTF-8"))
    return Rows(str(path), found, aside)


def _decoded(path: Path) -> list[str]:
    return [line.decode(errors="replace") for line in lines_of(path)]
