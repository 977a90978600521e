"""Train, evaluate, report and reproduce on texts, with files of the published form."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.cli import main
from sparring.commands import moderation_claim, text_claim, text_material, text_train
from sparring.domains.text import artefact, models, pools
from sparring.domains.text.embedded import embed
from sparring.domains.text.folding import folded
from sparring.domains.text.look_alikes import HOMOGLYPHS
from sparring.engine import record

GOOD, BAD = ("fine", "funny", "lovely", "warm"), ("dull", "bad", "boring", "cold")
PLAIN = ("the", "film", "plot", "is", "and", "a", "story", "cast", "woman", "muslim")
SYNONYMS = ("fine lovely", "lovely fine", "dull boring", "boring dull", "film story", "bad fine")


def sentences(seed: int, count: int) -> list[tuple[str, int]]:
    dice = random.Random(seed)
    made = []
    for k in range(count):
        label = k % 2
        words = dice.choices(PLAIN, k=6) + dice.choices(GOOD if label else BAD, k=2)
        dice.shuffle(words)
        made.append((" ".join(words), label))
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2's and Davidson's files, and PPDB's lists of pairs."""
    root = tmp_path_factory.mktemp("texts")
    (root / "text_sst2").mkdir()
    for name, (seed, count) in {"train": (0, 160), "dev": (1, 40), "test": (2, 60)}.items():
        rows = "".join(f"{text}\t{label}\n" for text, label in sentences(seed, count))
        (root / "text_sst2" / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}")
    (root / "text_davidson_hate").mkdir()
    rows = "".join(
        f"{k},3,0,3,0,{(0, 2)[label] if k % 3 else 2 - label},{text}\n"
        for k, (text, label) in enumerate(sentences(3, 300))
    )
    (root / "text_davidson_hate" / "labeled_data.csv").write_text(
        f",count,hate_speech,offensive_language,neither,class,tweet\n{rows}"
    )
    (root / "text_synonyms").mkdir()
    (root / "text_synonyms" / "ppdb_synonyms.txt").write_text("\n".join(SYNONYMS) + "\n")
    (root / "text_synonyms" / "ppdb_antonyms.txt").write_text("bad fine\n")
    (root / "text_synonyms" / "wordnet_antonyms.txt").write_text("good bad\n")
    return root


@pytest.fixture(autouse=True)
def _rare_words_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text_material._prepared.cache_clear()


FEW = ("--epochs", "2", "--device", "cpu", "--validation-steps", "2")


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(list(words)) == code
    return capsys.readouterr().out


def test_a_run_is_trained_evaluated_and_reported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data-root", str(root), "--run", "runs/a")
    run(capsys, "train", "text-at", *where, *FEW, "--method", "ibp", "--model", "bow", "--warmup", "0.4")
    found = record.read(Path("runs/a"))
    assert found["status"] == "done"
    assert found["data"]["neighbours"]["source"] == "ppdb"
    assert found["data"]["neighbours"]["words"] == 5  # bad and fine are antonyms
    answer = json.loads(run(capsys, "evaluate", "runs/a", "--examples", "30", "--json"))
    results, n = answer["results"], answer["n"]
    assert n == 30
    for name in ("greedy-deletion", "greedy-saliency", "genetic", "characters", "append"):
        one = results[name]
        assert one["accuracy"] <= results["clean"]["accuracy"]
        assert one["refused"] == 0
        assert one["success"]["n"] == round(results["clean"]["accuracy"] * n)
        assert one["accuracy"] * n == pytest.approx(one["success"]["n"] * (1 - one["success"]["rate"]))
        assert results["worst"]["accuracy"] <= one["accuracy"]
    assert results["certified"]["accuracy"] <= results["genetic"]["accuracy"]
    assert {check["name"] for check in answer["checks"]} >= {"verified", "value-never-falls", "eval-mode", "large-eps"}
    assert not [check for check in answer["checks"] if check["verdict"] == "fail" and check["name"] != "large-eps"]
    assert record.read(Path("runs/a"))["evaluation"]["results"] == results
    page = Path(run(capsys, "report", "runs/a").strip())
    text = page.with_suffix(".md").read_text()
    assert "greedy-deletion" in text
    assert "words" in text
    shown = run(capsys, "evaluate", "runs/a", "--examples", "10", "--no-genetic")
    assert "attack success" in shown
    assert "certified" in shown


def test_rows_that_cannot_be_used_are_counted_and_the_first_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{text},{label}\n" for text, label in sentences(4, 80))
    (tmp_path / "mine.csv").write_text(f"text,label\n{rows}no label,\nalso none,\n")
    where = ("--data", str(tmp_path / "mine.csv"), "--data-root", str(root), "--neighbours", "none", "--run", "runs/a")
    assert main(["train", "text-at", *where, *FEW, "--method", "none", "--model", "bow"]) == 0
    said = capsys.readouterr().err
    assert "2 rows cannot be used. The first, row 82 of" in said
    assert "has no label." in said


class Bow(nn.Module):
    """A bag of words that stops its own run once, in the middle of an epoch."""

    stop = -1

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = (
            nn.Embedding(vocabulary, 8, padding_idx=0),
            nn.Dropout(0.2),
            nn.Linear(8, 2),
        )

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.embedding, ids)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            Bow.stop -= 1
            if Bow.stop == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        values = (x if x.is_floating_point() else self.embed(x))[..., :-1]
        out: Tensor = self.head(self.drop(values.mean(1)))
        return out


@pytest.mark.parametrize("method", ["smart", "freelb"])
def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(
    method: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "build", lambda spec, vocabulary, *_: Bow(vocabulary))
    words = ["train", "text-at", "--data-root", str(root), *FEW, "--method", method, "--batch-size", "16"]
    Bow.stop = -1
    run(capsys, *words, "--run", "runs/whole")
    Bow.stop = 26
    run(capsys, *words, "--run", "runs/stopped", code=143)
    assert record.read(Path("runs/stopped"))["status"] == "interrupted"
    run(capsys, *words, "--run", "runs/stopped")
    for name in ("last.safetensors", "best.safetensors"):
        whole, stopped = load_file(f"runs/whole/{name}"), load_file(f"runs/stopped/{name}")
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)


def test_a_filter_has_a_threshold_and_its_false_alarms_stand_beside_every_detection(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--data-root", str(root), "--run", "runs/m", "--model", "bow", "--folding")
    run(capsys, "train", "moderation", *where, *FEW, "--false-positives", "0.1")
    kept = artefact.load("runs/m/classifier.safetensors")
    assert kept.classes == ("benign", "harmful")
    assert kept.threshold is not None
    assert kept.folding
    assert kept.false_positives == 0.1
    answer = json.loads(run(capsys, "evaluate", "runs/m", "--examples", "15", "--no-genetic", "--json"))
    assert set(answer["false_positives"]) == {"all", "identity terms", "look-alikes"}
    alarms = answer["false_positives"]["all"]
    flagged = answer["results"]["clean"]
    assert 0 <= alarms["accuracy"] <= 1
    assert flagged["n"] == 15
    assert "certified" not in answer["results"]
    page = Path(run(capsys, "report", "runs/m").strip())
    assert "False alarms" in page.with_suffix(".md").read_text()
    assert "false alarms, all" in run(
        capsys, "evaluate", "runs/m", "--examples", "5", "--no-genetic", "--folding", "off"
    )


def test_reproduce_gives_verdicts_and_finds_them_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        text_claim, "ARMS", [arm for arm in text_claim.ARMS if arm[0] in ("standard", "neftune", "pgd")]
    )
    few = [arm for arm in moderation_claim.ARMS if arm[0] in ("standard", "swap", "both")]
    monkeypatch.setattr(moderation_claim, "ARMS", few)
    small = ["--data-root", str(root), "--seeds", "2", "--epochs", "1", "--n", "6", "--model", "bow", "--json"]
    for name in ("text-at", "moderation"):
        told = run(capsys, "reproduce", name, *small)
        answer = json.loads(told)
        assert list(answer) == ["verdict", "effect", "arms", "seeds", "command"]
        assert answer["effect"]["n"] == 6
        assert answer["seeds"] == [0, 1]
        for arm in answer["arms"]:
            figures = arm["figures"]
            assert figures["worst"]["mean"] <= min(figures[key]["mean"] for key in ("clean", "append", "characters"))
        alarms = [key for key in answer["arms"][0]["figures"] if key.startswith("false alarms")]
        assert len(alarms) == (3 if name == "moderation" else 0)
        with monkeypatch.context() as patch:
            patch.setattr(text_train, "train", None)  # found again, not trained again
            assert run(capsys, "reproduce", name, *small) == told


def test_bad_input_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-root", str(root), "--run", "runs/bad", *FEW]
    cases = (
        (["train", "text-at", *where, "--method", "a2t", "--neighbours", "none"], "exchanges words"),
        (["train", "text-at", *where, "--method", "a2t", "--tokenizer", "byte"], "exchanges words"),
        (["train", "moderation", *where, "--tokenizer", "byte"], "'tokenizer' parameter must be 'word'"),
        (["train", "moderation", *where, "--data", "sst2"], "'benign' parameter must name some of the classes"),
        (["train", "text-at", *where, "--method", "ibp", "--model", "transformer"], "models bow and cnn"),
        (["train", "text-at", *where, "--data", "sst3"], "Did you mean 'sst2'?"),
        (["reproduce", "text-at", "--n", "1"], "'n' parameter must be an int >= 2"),
    )
    for words, said in cases:
        assert main(words) == 2, words
        assert said in capsys.readouterr().err


def test_an_artefact_refuses_another_models_tokenizer(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        capsys,
        "train",
        "text-at",
        "--data-root",
        str(root),
        "--run",
        "runs/t",
        *FEW,
        "--method",
        "none",
        "--model",
        "bow",
    )
    path = Path("runs/t/classifier.safetensors")
    kept = artefact.load(path)
    assert artefact.from_bytes(kept.to_bytes()).to_bytes() == kept.to_bytes() == path.read_bytes()
    other = type(kept.tokenizer)(("one", "two"))
    with pytest.raises(artefact.ArtefactError, match="the tokenizer is another model's"):
        artefact.Classifier(kept.spec, kept.model, other, kept.classes, kept.length)
    for content, said in (
        (b"junk", "not a whole safetensors file"),
        (path.read_bytes()[:-5], "not a whole safetensors"),
    ):
        with pytest.raises(artefact.ArtefactError, match=said):
            artefact.from_bytes(content)
    with pytest.raises(artefact.ArtefactError, match="holds weights but no text classifier"):
        artefact.load("runs/t/best.safetensors")


def test_folding_undoes_look_alikes_and_leaves_other_scripts() -> None:
    for latin, strange in HOMOGLYPHS.items():
        for letter in strange:
            assert folded(f"x{letter}z") == f"x{latin}z"
    assert folded("plain text") == "plain text"
    assert folded("z\u200bero w\u00ecdth ｆｕｌｌ") == "zero width full"
    for word in ("привет, мир", "καλημέρα", "🙂 ok"):
        assert folded(word) == word


def test_pools_order_words_by_what_they_say() -> None:
    strings = ["a good day"] * 3 + ["a bad day"] * 3 + ["good good night"]
    y = torch.tensor([1, 1, 1, 0, 0, 0, 1])
    assert pools.marking(strings, y, 1, 1, least=1) == ("good",)
    assert pools.marking(strings, y, 0, 1, least=1) == ("bad",)
    assert pools.neutral(strings, y, 2, least=3) == ("a", "day")
