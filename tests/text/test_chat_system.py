"""The prompt-injection system: its objectives are their formulas, its adversary takes the worst, its commands work."""

import copy
import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from tests.text.chatting import SENTENCES, chat, model
from torch import Tensor

from sparring import systems
from sparring.cli import main
from sparring.commands import chat_train
from sparring.commands.chat_battery import watched
from sparring.commands.chat_train import SCRATCH, Where, train_run, validation
from sparring.core.game import Game, play
from sparring.core.gradient import frozen
from sparring.core.tools import Tools
from sparring.domains.text import chat_file
from sparring.domains.text.chat import Conversations, Rows, look_alikes, make, obeys
from sparring.domains.text.chat_file import FILE, ChatFileError, ChatModel
from sparring.domains.text.decoder import Decoder
from sparring.domains.text.files import DataError
from sparring.domains.text.likelihood import log_likelihood
from sparring.domains.text.prompt import Query
from sparring.domains.text.tasks import KINDS
from sparring.engine import cost, record
from sparring.engine.job import STATE, InterruptedRunError
from sparring.systems import prompt_injection
from sparring.systems.prompt_injection import Config, Injector, obedience

CHAT = chat()
SYSTEM = prompt_injection.SYSTEM


def drawn(count: int, seed: int = 0, **changes: object) -> Rows:
    how = {"forms": ("naive", "completion"), "draws": 3, "loose": 0.5, "held_out": False} | changes
    return make(SENTENCES, count, torch.Generator().manual_seed(seed), **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def source() -> Conversations:
    return Conversations.of(drawn(48), CHAT)


@pytest.fixture(scope="module")
def batch(source: Conversations) -> tuple[Tensor, Tensor]:
    return source.take(torch.arange(16))


def made(config: Config, lm: Decoder, seed: int = 0) -> Game:
    tools = Tools(rng=torch.Generator().manual_seed(seed))
    return prompt_injection.game(config, model=lm, optimizer=torch.optim.SGD(lm.parameters(), lr=0.02), tools=tools)


def test_the_rule_knows_every_answer_and_the_two_are_never_confused() -> None:
    for row in drawn(200, kinds=("first", "two", "say", "twice")).rows:
        assert row.answer == row.task.answer(row.text)
        for attack in row.attacks:
            assert attack.right == row.task.answer(attack.data)
            assert attack.wanted == attack.task.answer(row.text)
            assert not obeys(attack.right, attack.wanted)
    for row in look_alikes(SENTENCES, 50, torch.Generator().manual_seed(0)).rows:
        assert row.answer == row.task.answer(row.query.data)


def test_sentences_that_give_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="2 sentences give 0 of 5 instructions"):
        make(("too short", "!"), 5, torch.Generator(), forms=("naive",), held_out=False)


def test_a_model_that_is_asked_in_training_mode_is_noticed() -> None:
    lm = model(CHAT)
    with watched(lm) as modes:
        lm.continued(torch.tensor([[3, 4]]))
        assert not modes
        lm.train().continued(torch.tensor([[3, 4]]))
    assert modes


def test_phrasings_of_the_test_are_none_of_training_but_their_parts_are() -> None:
    for kind in KINDS:
        seen, unseen = (set(kind.phrasings(held_out)) for held_out in (False, True))
        assert not seen & unseen
        assert len(unseen) >= 2
        for part in (*kind.leads, *kind.cores, *kind.tails):
            assert any(part in said for said in seen)


def test_a_batch_holds_the_row_and_its_attacks(source: Conversations) -> None:
    rows = drawn(48).rows
    x, y = source.take(torch.tensor([3, 7]))
    assert x.shape[:3] == (2, 4, 2)
    assert y.tolist() == [rows[3].task.kind, rows[7].task.kind]
    texts = [CHAT.text(ids[ids != 0].tolist()) for ids in x[1].flatten(0, 1)]
    assert texts[1] == ""
    for c, attack in enumerate(rows[7].attacks, 1):
        assert texts[2 * c].endswith(f"<|answer|> {attack.right}<|end|>")
        assert texts[2 * c + 1].endswith(f"<|answer|> {attack.wanted}<|end|>")
        assert texts[2 * c].split("<|answer|>")[0] == texts[2 * c + 1].split("<|answer|>")[0]


def test_the_adversary_takes_the_worst_of_its_draws_and_disturbs_nothing(batch: tuple[Tensor, Tensor]) -> None:
    lm = model(CHAT).train()
    before = copy.deepcopy(lm.state_dict())
    with torch.no_grad():
        every = torch.stack([obedience(lm, batch[0][:, c], batch) for c in (1, 2, 3)], 1)
    z = Injector(3, torch.Generator().manual_seed(0)).respond(lm, batch)
    assert torch.allclose(obedience(lm, z, batch), every.amax(1))
    one = Injector(1, torch.Generator().manual_seed(0)).respond(lm, batch)
    assert all(any(torch.equal(one[i], batch[0][i, c]) for c in (1, 2, 3)) for i in range(16))
    means = [
        obedience(lm, Injector(k, torch.Generator().manual_seed(5)).respond(lm, batch), batch).mean() for k in (1, 2, 3)
    ]
    assert means == sorted(means)
    assert lm.training
    assert all(p.grad is None and p.requires_grad for p in lm.parameters())
    assert all(torch.equal(before[name], value) for name, value in lm.state_dict().items())


def test_of_an_unattacked_row_the_payoff_is_the_loss(batch: tuple[Tensor, Tensor]) -> None:
    lm, z = model(CHAT), prompt_injection.as_it_came(batch)
    with torch.no_grad():
        assert torch.allclose(obedience(lm, z, batch), -log_likelihood(lm, z[:, 0]))
        assert torch.allclose(prompt_injection.supervised(lm, z, batch), obedience(lm, z, batch))


@pytest.mark.parametrize(("share", "attacked"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_struq_attacks_its_share_of_a_batch(batch: tuple[Tensor, Tensor], share: float, attacked: int) -> None:
    z = made(Config("struq", share=share), model(CHAT)).adversary.respond(model(CHAT), batch)
    assert int((z[:, 1] != 0).any(1).sum()) == attacked


def test_secalign_starts_at_log_two_and_prefers_the_right_answer(batch: tuple[Tensor, Tensor]) -> None:
    lm = model(CHAT)
    game = made(Config("secalign", beta=0.3, anchor=0.0), lm)
    objective = game.learner.objective  # type: ignore[attr-defined]
    z = game.adversary.respond(lm, batch)
    loss, told = objective(lm, z, batch)
    assert torch.allclose(loss, torch.full((16,), math.log(2)), atol=1e-5)
    assert 0 <= told["right answer ahead"] <= 1
    before = obedience(lm, z, batch).detach()
    losses = [metrics["loss"].item() for metrics in play(game, [batch] * 6)]
    assert losses[-1] < losses[0]
    assert obedience(lm, z, batch).mean() < before.mean()
    anchored = prompt_injection.Preferring(copy.deepcopy(lm), 0.3, anchor=0.5)
    clean = log_likelihood(lm, batch[0][:, 0, 0])
    assert torch.allclose(anchored(lm, z, batch)[0], math.log(2) - 0.5 * clean, atol=1e-4)


@pytest.mark.parametrize("method", prompt_injection.METHODS)
def test_playing_lowers_the_loss_and_the_same_seed_gives_the_same_weights(
    method: str, batch: tuple[Tensor, Tensor]
) -> None:
    weights = []
    for noise in range(2):
        lm = model(CHAT)
        torch.manual_seed(noise)
        losses = [m["loss"].item() for m in play(made(Config(method, draws=2), lm), [batch] * 5)]  # type: ignore[arg-type]
        assert losses[-1] < losses[0]
        weights.append(lm.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validation_counts_what_generation_says() -> None:
    """Of a model that has learned some rows by heart, and some of them under attack."""
    rows = drawn(20, seed=1, kinds=("first", "say"), loose=0.0, forms=("naive",))
    source, lm = Conversations.of(rows, CHAT), model(CHAT)
    config, tools = Config("struq", share=0.3), Tools(rng=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=0.01)
    game = prompt_injection.game(config, model=lm, optimizer=optimizer, tools=tools)
    for _ in play(game, [source.take(torch.arange(10))] * 25):
        pass
    lm.train()
    found = validation(lm, source, torch.arange(20), torch.Generator())
    assert lm.training
    with frozen(lm):
        subject = ChatModel("", lm, CHAT)
        said = subject.answers([row.query for row in rows.rows])
        right = [one == row.answer for one, row in zip(said, rows.rows, strict=True)]
        stands = []
        for row, before in zip(rows.rows, right, strict=True):
            under = subject.answers([Query(row.task.instruction, attack.data) for attack in row.attacks])
            stands.append(before and all(a == attack.right for a, attack in zip(under, row.attacks, strict=True)))
    assert found == {"clean": sum(right) / 20, "robust": sum(stands) / 20, "n": 20}
    assert 1 > found["clean"] > found["robust"] > 0


def test_config_is_checked_and_round_trips() -> None:
    config = Config()
    assert Config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert (Config("struq").completing, Config("secalign").completing) == (0.5, 0.1)
    for changes in ({"method": "x"}, {"beta": 0.0}, {"share": 1.5}, {"draws": 0}, {"draws": 9}, {"anchor": -1.0}):
        with pytest.raises(ValueError, match=f"'{next(iter(changes))}' parameter"):
            Config(**changes)  # type: ignore[arg-type]
    for heading in ("Learner", "Adversary", "Payoff", "Threat", "Reference", "Departs from the paper", "Claim"):
        assert f"\n{heading}" in SYSTEM.card
    assert "min_theta" in SYSTEM.card
    assert systems.find("prompt-injection") is SYSTEM


@pytest.fixture
def unpriced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of a step is measured elsewhere."""
    monkeypatch.setattr(cost, "step_ratio", lambda *_, **__: {})


def run(folder: Path, seed: int = 0, **config: object) -> Path:
    where = Where(rows=60, tokens=900, model="decoder-32x1", start=SCRATCH, run=folder, seed=seed)
    training = dataclasses.replace(SYSTEM.training, epochs=2, device="cpu")
    return train_run(SYSTEM, SYSTEM.config(**config), training, where, "")


@pytest.mark.usefixtures("unpriced")
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", method="struq", draws=2)
    plain, seen = chat_train.build, list[int]()

    def stop(*_: object) -> None:
        seen.append(1)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    def stopping(*arguments: object) -> Decoder:
        lm = plain(*arguments)  # type: ignore[arg-type]
        lm.register_forward_pre_hook(stop)
        return lm

    monkeypatch.setattr(chat_train, "build", stopping)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "stopped", method="struq", draws=2)
    assert (tmp_path / "stopped" / STATE).exists()
    monkeypatch.setattr(chat_train, "build", plain)
    again = run(tmp_path / "stopped", method="struq", draws=2)
    assert (whole / FILE).read_bytes() == (again / FILE).read_bytes()
    histories = [[{**e, "seconds": 0} for e in record.read(each)["history"]] for each in (whole, again)]
    assert histories[0] == histories[1]


def test_a_file_gives_the_model_back_and_another_is_refused(tmp_path: Path) -> None:
    lm = ChatModel("decoder-32x2", model(CHAT), CHAT)
    (tmp_path / FILE).write_bytes(chat_file.to_bytes(lm))
    read = chat_file.load(tmp_path / FILE)
    x = torch.tensor([CHAT.ids("the quick brown fox")])
    with torch.no_grad():
        assert torch.equal(read.model(x), lm.model(x))
    assert read.chat.ids("<|end|>") == CHAT.ids("<|end|>")
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ChatFileError, match="must be a chat model"):
        chat_file.load(tmp_path / "other")


@pytest.mark.usefixtures("unpriced")
def test_train_evaluate_report_and_reproduce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--rows", "60", "--model", "decoder-32x1", "--epochs", "1", "--start-epochs", "1"]
    assert main(["train", "prompt-injection", *small, "--run", "runs/a", "--tokens", "900"]) == 0
    capsys.readouterr()
    assert (
        record.read(Path("runs/a"))["model"]["start"] != record.read(Path("runs/a-start"))["model"]["start"] == SCRATCH
    )
    assert main(["evaluate", "runs/a", "--examples", "10", "--adaptive", "2", "--steps", "2", "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert set(evaluation["injections"]) == {
        "naive",
        "ignore",
        "escape",
        "completion",
        "combined",
        "worst",
        "gcg",
        "embedding",
    }
    for one in evaluation["injections"].values():
        assert one["success"]["rate"] <= 1
        assert "undefended" in one
    verdicts = {each["name"]: each["verdict"] for each in evaluation["checks"]}
    assert {verdicts[name] for name in ("judge", "evaluation mode", "cache", "what is sent is what was found")} == {
        "pass"
    }
    assert main(["evaluate", "runs/a", "--examples", "10", "--adaptive", "0"]) == 0
    assert "still right" in capsys.readouterr().out
    assert main(["report", "runs/a"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert "Instructions in the data" in page.read_text()
    assert "Whichever of these succeeds" in page.with_name("report.md").read_text()
    words = ["reproduce", "prompt-injection", *small, "--seeds", "2", "--n", "10", "--adaptive", "0"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["verdict", "effect", "arms", "seeds", "command"]
    assert [arm["name"] for arm in answer["arms"]] == ["start", "undefended", "struq", "secalign"]
    assert main(words) == 0
    assert f"verdict: {answer['verdict']}" in capsys.readouterr().out
    assert main(["train", "prompt-injection", "--precision", "bf16"]) == 2
    assert "'precision' parameter must be '32'" in capsys.readouterr().err
    assert main(["reproduce", "prompt-injection", "--seeds", "0"]) == 2
    assert "'seeds' parameter must be an int >= 1" in capsys.readouterr().err
