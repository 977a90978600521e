"""The guard: thresholds by closed form, real catastrophic overfitting noticed, healthy runs left alone, rollbacks."""

import functools
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.core.game import play
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.domains.image.data import load
from sparring.engine import guard as guards
from sparring.engine.guard import Guard, Reading, Verdict, collapsed, decide, due, fell, judge, standard_error
from sparring.engine.stream import Source, Stream, hold_out
from sparring.systems import pgd_at

N = 256


def reading(robust: float, clean: float = 0.95, step: int = 1, n: int = N) -> Reading:
    return Reading(step, clean, robust, n)


# What counts as a fall


def test_the_standard_error_is_that_of_two_binomials() -> None:
    """Simulated: two independent shares of n with the same p differ with this standard deviation."""
    p, n = 0.3, 400
    torch.manual_seed(0)
    shares = torch.distributions.Binomial(n, torch.tensor(p)).sample((20000, 2)) / n
    assert (shares[:, 0] - shares[:, 1]).std().item() == pytest.approx(standard_error(p, p, n), rel=0.02)


@pytest.mark.parametrize("n", [64, 256, 1000])
def test_a_fall_to_nothing_counts_from_sixteen_out_of_n_and_eight(n: int) -> None:
    """b > 4 sqrt(2 (b/2) (1 - b/2) / n) exactly when b > 16 / (n + 8)."""
    edge = 16 / (n + 8)
    assert fell(edge + 1e-9, 0.0, n)
    assert not fell(edge - 1e-9, 0.0, n)
    assert collapsed(edge + 1e-9, 0.0, n)


def test_all_to_nothing_counts_from_nine_examples() -> None:
    """The standard error of 1 -> 0 is sqrt(1 / 2n), and four of them are below 1 from n = 9 on."""
    assert [n for n in range(1, 20) if fell(1.0, 0.0, n)] == list(range(9, 20))


def test_a_collapse_is_a_fall_below_half() -> None:
    assert collapsed(0.6, 0.299, N)
    assert not collapsed(0.6, 0.301, N)
    assert fell(0.6, 0.301, N)
    # With few examples half is not enough: 0.6 -> 0.2 on 40 is 0.4 against 4 * sqrt(2 * 0.4 * 0.6 / 40) = 0.438.
    assert 4 * standard_error(0.6, 0.2, 40) == pytest.approx(0.4382, abs=1e-4)
    assert not collapsed(0.6, 0.2, 40)
    assert collapsed(0.6, 0.2, 60)


def test_chance_alone_is_never_a_fall() -> None:
    """At n = 256 and any accuracy, 20000 pairs of checks of an unchanged model: four sigma is one in 30000."""
    torch.manual_seed(0)
    for p in (0.1, 0.3, 0.5, 0.9):
        shares = (torch.distributions.Binomial(N, torch.tensor(p)).sample((20000, 2)) / N).double()
        mean = shares.mean(1)
        se = (2 * mean * (1 - mean) / N).sqrt()
        assert (shares[:, 0] - shares[:, 1] > 4 * se).double().mean() < 2e-4
        assert not any(collapsed(a, b, N) for a, b in shares[:2000].tolist())


# What it means


@pytest.mark.parametrize(
    ("best", "now", "kind"),
    [
        (None, reading(0.5), "sound"),
        (reading(0.5), reading(0.5), "sound"),
        (reading(0.5), reading(0.45), "sound"),
        (reading(0.6), reading(0.4), "falling"),
        (reading(0.5), reading(0.03, clean=0.99), "collapse"),
        (reading(0.5), reading(0.03, clean=0.60), "collapse"),  # clean fell as well, but not by half
        (reading(0.5), reading(0.03, clean=0.11), "divergence"),
        (reading(0.5), reading(0.45, clean=0.46), "divergence"),
        (reading(0.12), reading(0.0), "sound"),  # never stood clear of the best constant answer
        (reading(0.12), reading(0.1, clean=0.1), "sound"),
    ],
)
def test_what_a_reading_means(best: Reading | None, now: Reading, kind: str) -> None:
    assert judge(now, best, constant=0.1) == kind


def test_robust_accuracy_has_to_stand_clear_of_the_constant_answer_before_it_can_fall() -> None:
    """0.5 on two balanced classes is what a model that ignores its input has."""
    assert judge(reading(0.1), reading(0.55), constant=0.5) == "sound"
    assert judge(reading(0.1), reading(0.75), constant=0.5) == "collapse"


@pytest.mark.parametrize(
    ("policy", "kind", "news", "rollbacks", "snapshot", "action"),
    [
        ("off", "collapse", True, 0, True, "continue"),
        ("warn", "sound", True, 0, False, "continue"),
        ("warn", "collapse", True, 0, False, "warn"),
        ("warn", "collapse", False, 0, False, "continue"),
        ("warn", "divergence", True, 0, False, "warn"),
        ("stop", "falling", True, 0, False, "continue"),
        ("stop", "collapse", True, 0, False, "stop"),
        ("stop", "divergence", True, 0, False, "stop"),
        ("rollback", "sound", True, 0, False, "keep"),
        ("rollback", "falling", True, 0, True, "continue"),
        ("rollback", "collapse", True, 0, True, "rollback"),
        ("rollback", "collapse", True, 2, True, "rollback"),
        ("rollback", "collapse", True, 3, True, "stop"),
        ("rollback", "divergence", True, 0, True, "rollback"),
        ("rollback", "collapse", True, 0, False, "stop"),
    ],
)
def test_what_is_done(policy: Any, kind: Any, news: bool, rollbacks: int, snapshot: bool, action: str) -> None:
    verdict = Verdict(kind, reading(0.0), reading(0.5), news)
    assert decide(policy, verdict, rollbacks, snapshot=snapshot) == action


@pytest.mark.parametrize(("steps", "checks"), [(17, 1), (17, 4), (12, 4), (5, 5), (3, 8), (1, 2)])
def test_checks_are_spread_evenly_and_close_every_epoch(steps: int, checks: int) -> None:
    at = [step for step in range(1, 3 * steps + 1) if due(step, steps, checks)]
    assert len(at) == 3 * min(steps, checks)
    assert {steps, 2 * steps, 3 * steps} <= set(at)
    gaps = [b - a for a, b in zip([0, *at], at, strict=False)]
    assert max(gaps) - min(gaps) <= 1


# A guard


@functools.cache
def data() -> tuple[Source, Tensor, Tensor]:
    source = load("digits").train
    return source, *hold_out(source.y, 0.2, 0)


def network(seed: int = 0, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * width, 100), nn.ReLU(), nn.Linear(100, 10)),
    )


def made(seed: int = 0, eps: float = 0.1, **changes: Any) -> Guard:
    source, _, held_out = data()
    return Guard(source, held_out, sparring.Linf(eps), seed=seed, **changes)


def test_the_examples_are_a_function_of_the_seed_and_held_out() -> None:
    _, _, held_out = data()
    assert torch.equal(made().rows, made().rows)
    assert not torch.equal(made().rows, made(seed=1).rows)
    assert len(made().rows) == 256
    assert len(made(examples=20).rows) == 20
    assert len(made(examples=10**6).rows) == len(held_out)
    assert torch.isin(made().rows, held_out).all()
    assert made().constant == pytest.approx(0.1, abs=0.05)


def test_a_check_leaves_the_model_and_the_global_generator_as_found_and_repeats_itself() -> None:
    model, guard = nn.Sequential(nn.BatchNorm2d(1), *network()), made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    first, second = guard.check(model, 1).now, guard.check(model, 1).now
    assert first == second
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_best_is_the_most_robust_and_trouble_is_news_once_until_it_is_over() -> None:
    guard = made()
    said = []
    for step, (robust, clean) in enumerate(
        [(0.3, 0.9), (0.6, 0.9), (0.5, 0.99), (0.01, 0.99), (0.0, 0.99), (0.5, 0.9), (0.02, 0.9), (0.0, 0.1)], start=1
    ):
        verdict = guard.read(reading(robust, clean, step))
        said.append((verdict.kind, verdict.news and verdict.trouble, bool(verdict.message)))
    assert guard.best is not None
    assert guard.best.step == 2
    assert said == [
        ("sound", False, False),
        ("sound", False, False),
        ("sound", False, False),
        ("collapse", True, True),
        ("collapse", False, True),
        ("sound", False, False),
        ("collapse", True, True),
        ("divergence", True, True),
    ]
    assert [entry["kind"] for entry in guard.history] == [kind for kind, _, _ in said]
    assert guards.last_sound(guard.history) == 6


def test_the_message_names_step_accuracies_eps_and_a_way_out() -> None:
    guard = made(eps=0.3)
    guard.read(reading(0.6, 0.9, 40))
    message = guard.read(reading(0.05, 0.97, 80)).message
    for part in ("Catastrophic overfitting", "step 80", "60.0 % (step 40) to 5.0 %", "90.0 % to 97.0 %", "eps 0.3"):
        assert part in message
    for advice in ("n-fgsm", "gradalign", "--step-size", "pgd-at"):
        assert advice in message
    other = guard.read(reading(0.05, 0.1, 90)).message
    assert other.startswith("Training diverged by step 90: clean accuracy from 90.0 % to 10.0 %")
    assert "--learning-rate" in other


def test_what_is_done_is_said() -> None:
    guard, model = made(policy="rollback"), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard.act(guard.read(reading(0.6, step=40)), model, optimizer)
    guard.roll_back(model, optimizer)
    assert guards.consequence("rollback", guard) == ("Back to step 40 at 0.5 of the learning rate (rollback 1 of 3).")
    assert (
        guards.consequence("stop", guard, 40) == "Stopped after rollback 1 of 3. The weights kept are those of step 40."
    )
    assert guards.consequence("stop", made()) == "Stopped."
    assert guards.consequence("warn", made()) == "The run goes on."


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'policy' parameter must be .* Got 'panic' instead"):
        made(policy="panic")


# Going back


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    source, rows, _ = data()
    x, y = source.take(rows[:32])
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)])
def test_a_snapshot_is_restored_exactly_however_often(make: Any) -> None:
    """Weights, momentum and step counts: the steps after each restoring are the same, bit for bit."""
    model = network()
    optimizer = make(model.parameters(), lr=0.01)
    stepped(model, optimizer, 3)
    kept = guards.take(model, optimizer, 3, extra=torch.ones(2))
    ends = []
    for _ in range(3):
        stepped(model, optimizer, 5)
        rest = guards.restore(model, optimizer, kept, 0.5)
        assert [group["lr"] for group in optimizer.param_groups] == [0.005]
        rest["extra"].zero_()
        stepped(model, optimizer, 2)
        ends.append([p.detach().clone() for p in model.parameters()])
    assert (kept["rest"]["extra"] == 1).all()
    for end in ends[1:]:
        assert all(torch.equal(p, q) for p, q in zip(ends[0], end, strict=True))


def test_rate_and_seed_are_functions_of_the_rollbacks_alone() -> None:
    guard, model = made(seed=7, policy="rollback"), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert (guard.rate, guard.stream_seed) == (1.0, 7)
    assert guard.act(guard.read(reading(0.6, step=10)), model, optimizer) == "keep"
    seeds, rates = [guard.stream_seed], [guard.rate]
    assert optimizer.param_groups[0]["lr"] == 0.1
    for count in range(1, 4):
        assert guard.act(guard.read(reading(0.0, step=20)), model, optimizer) == "rollback"
        assert guard.roll_back(model, optimizer) == (10, {})
        assert guard.rollbacks == count
        seeds.append(guard.stream_seed)
        rates.append(guard.rate)
        assert optimizer.param_groups[0]["lr"] == 0.1 * guard.rate  # though every time from the same snapshot
    assert rates == [1.0, 0.5, 0.25, 0.125]
    assert len(set(seeds)) == 4
    assert guard.act(guard.read(reading(0.0, step=20)), model, optimizer) == "stop"


def test_there_is_nothing_to_go_back_to_before_a_sound_check() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="no snapshot"):
        made(policy="rollback").roll_back(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_falling_state_is_no_snapshot() -> None:
    guard, model = made(policy="rollback"), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert guard.act(guard.read(reading(0.6, step=10)), model, optimizer) == "keep"
    assert guard.act(guard.read(reading(0.4, step=20)), model, optimizer) == "continue"
    assert guard.snapshot is not None
    assert guard.snapshot["step"] == 10


def test_the_state_survives_a_checkpoint_and_decides_the_same() -> None:
    """Through a file as the engine writes it, snapshot included."""
    guard, model = made(policy="rollback"), network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    stepped(model, optimizer, 1)
    guard.act(guard.read(reading(0.6, step=10)), model, optimizer, history=[1, 2])
    guard.roll_back(model, optimizer)
    guard.read(reading(0.01, step=12))
    file = io.BytesIO()
    torch.save(guard.state_dict(), file)
    other = made(policy="rollback")
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert (other.best, other.rollbacks, other.history) == (guard.best, guard.rollbacks, guard.history)
    assert (other.rate, other.stream_seed) == (guard.rate, guard.stream_seed)
    assert other.read(reading(0.01, step=14)) == guard.read(reading(0.01, step=14))
    ends = []
    for one in (guard, other):
        assert one.roll_back(model, optimizer) == (10, {"history": [1, 2]})
        stepped(model, optimizer, 2)
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


# Real runs on the embedded digits


def trained(
    config: pgd_at.Config, *, seed: int, epochs: int, lr: float, width: int, checks: int, policy: Any
) -> tuple[Guard, list[str]]:
    """Train under a guard, and do what it says: the whole of what an engine has to do."""
    source, rows, held_out = data()
    model, progress, rng = network(seed, width), Progress(0.0), torch.Generator()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    game = pgd_at.game(config, model=model, optimizer=optimizer, tools=Tools(rng=rng, progress=progress))
    guard = Guard(source, held_out, sparring.Linf(config.eps), seed=seed, policy=policy)
    actions: list[str] = []
    step, steps = 0, Stream(source, rows, 64, seed, rng).steps
    while step < epochs * steps:
        for _ in play(game, Stream(source, rows, 64, guard.stream_seed, rng).epoch(*divmod(step, steps))):
            step += 1
            progress.value = step / (epochs * steps)
            if due(step, steps, checks):
                actions.append(guard.act(guard.check(model, step), model, optimizer))
                if actions[-1] == "rollback":
                    step, _ = guard.roll_back(model, optimizer)
                    break
    return guard, actions


def test_real_catastrophic_overfitting_is_noticed_and_a_rollback_saves_the_run() -> None:
    """FGSM without random start, at a radius that is large for the digits, overfits to itself late in training. When,
    and how often before it learns, depends on how a processor rounds."""
    config = pgd_at.Config(attack="fgsm", random_start=False, eps=0.3, eps_warmup=0.5)
    guard, actions = trained(config, seed=0, epochs=24, lr=0.15, width=16, checks=1, policy="rollback")
    at = actions.index("rollback")
    before = max(entry["robust"] for entry in guard.history[:at])
    fallen, *after = guard.history[at:]
    assert before > 0.2
    assert fallen["robust"] < 0.5 * before
    assert fallen["clean"] > 0.8
    assert fallen["kind"] == "collapse"
    assert fallen["step"] == after[0]["step"]  # the same stretch again, with other draws and half the learning rate
    assert max(entry["robust"] for entry in after) > 0.25
    assert 1 <= guard.rollbacks <= 3
    assert "stop" not in actions
    assert guard.history[-1]["kind"] in ("sound", "falling")


@pytest.mark.parametrize("seed", range(5))
def test_healthy_adversarial_training_is_never_flagged(seed: int) -> None:
    config = pgd_at.Config(eps=0.1, steps=3, eps_warmup=0.3)
    guard, actions = trained(config, seed=seed, epochs=6, lr=0.05, width=8, checks=3, policy="warn")
    assert actions == ["continue"] * 18
    assert {entry["kind"] for entry in guard.history} <= {"sound", "falling"}
    assert guard.best is not None
    assert guard.best.robust > 0.5
