"""What every system has to hold, on texts: text-at with each of its methods, and moderation."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparring
from sparring import systems
from sparring.core.game import play
from sparring.core.gradient import frozen
from sparring.core.players import Nature
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.domains.text.ball import SentenceBall, TokenBall
from sparring.domains.text.embedded import mean_norm
from sparring.domains.text.models import build
from sparring.engine.system import System
from sparring.systems import moderation, standard, text_at
from sparring.systems.moderation.tricks import Tricks, appended, misspelt, swapped, tricks
from sparring.systems.text_at.substitutes import Substituted

V, L = 40, 8
TABLE = torch.arange(V)[:, None].repeat(1, 3)
TABLE[2:, 0] = torch.arange(2, V).flip(0)
TABLE[2:30, 1] = torch.arange(3, 31)
TABLE[30:, 1] = torch.arange(30, V)
VOCABULARY = moderation.Vocabulary(TABLE, torch.tensor([30, 31, 32]), torch.tensor([5, 6, 7]), length=L + 4)
HEADINGS = ("Learner", "Adversary", "Payoff", "Threat", "Reference", "Departs from the paper", "Claim")
VARIANTS = [("text-at", method) for method in text_at.METHODS] + [
    ("moderation", kind) for kind in moderation.ADVERSARIES
]


@pytest.fixture(params=["text-at", "moderation"])
def system(request: pytest.FixtureRequest) -> System:
    return systems.find(request.param)


def batch(seed: int = 0, n: int = 32) -> tuple[Tensor, Tensor]:
    """Texts whose class is whether they hold more low ids than high ones."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, V, (n, L), generator=rng)
    lengths = torch.randint(3, L + 1, (n, 1), generator=rng)
    ids = torch.where(torch.arange(L) < lengths, ids, 0)
    low = ((ids > 1) & (ids < 20)).sum(1)
    return ids, (2 * low > lengths.squeeze(1)).long()


def network(variant: tuple[str, str], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("bow" if variant[1] == "ibp" else "transformer", V, 2, L + 4)


def made(
    variant: tuple[str, str], model: nn.Module, seed: int = 0, lr: float = 0.05, **changes: object
) -> sparring.Game:
    found, field = systems.find(variant[0]), "method" if variant[0] == "text-at" else "adversary"
    config = found.config(**{field: variant[1], "warmup": 0.0, **changes})
    extra = {"neighbours": TABLE} if variant[0] == "text-at" else {"vocabulary": VOCABULARY}
    tools = Tools(rng=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return found.game(config, model=model, optimizer=optimizer, tools=tools, **extra)


def test_config_default_constructs_is_frozen_and_round_trips_through_json(system: System) -> None:
    config = system.config()
    assert type(config).__dataclass_params__.frozen
    assert system.config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    for field in dataclasses.fields(config):
        assert isinstance(getattr(config, field.name), (int, float, str, type(None))), field.name


def test_every_field_of_the_config_has_a_docstring(system: System) -> None:
    folder = Path(systems.__file__).parent / system.name.replace("-", "_")
    source = (folder / "__init__.py").read_text().splitlines()
    for field in dataclasses.fields(system.config):
        at = next(i for i, line in enumerate(source) if line.startswith(f"    {field.name}: "))
        following = next(line.strip() for line in source[at + 1 :] if not line.startswith(("        ", "    ]")))
        assert following.startswith('"""'), field.name


def test_the_card_has_its_headings_and_a_formula_and_the_citation_is_bibtex(system: System) -> None:
    for heading in HEADINGS:
        assert f"\n{heading}" in system.card, heading
    assert "min_theta" in system.card
    assert system.citation.startswith("@")
    assert system.citation.count("{") == system.citation.count("}")


@pytest.mark.parametrize("eps", [0, -1, float("nan"), float("inf"), True, "large"])
def test_config_refuses_an_eps_that_is_no_radius(system: System, eps: object) -> None:
    with pytest.raises(ValueError, match="'eps' parameter"):
        system.config(eps=eps)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (text_at.Config, {"method": "gradient"}),
        (text_at.Config, {"ball": "word"}),
        (text_at.Config, {"steps": 0}),
        (text_at.Config, {"weight": 1.5}),
        (text_at.Config, {"attacked": 0.0}),
        (text_at.Config, {"warmup": 1.0}),
        (text_at.Config, {"proximal": -1.0}),
        (moderation.Config, {"adversary": "people"}),
        (moderation.Config, {"draws": -1}),
        (moderation.Config, {"swap": 2.0}),
        (moderation.Config, {"warmup": 1.0}),
    ],
)
def test_config_refuses_what_is_outside(config: type, changes: dict[str, object]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        config(**changes)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_the_same_seed_gives_the_same_weights_and_respond_leaves_the_model_as_found(variant: tuple[str, str]) -> None:
    weights = []
    for again in range(2):
        model = network(variant)
        game = made(variant, model)
        for step in range(2):
            torch.manual_seed(step)  # for dropout; the game draws from the generator it is given
            if again:
                state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
            ids, y = batch(step)
            noise = torch.get_rng_state()
            move = game.adversary.respond(model, (ids, y))
            assert torch.equal(torch.get_rng_state(), noise)
            if again:
                assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
                assert modes == [m.training for m in model.modules()]
                assert all(p.requires_grad for p in model.parameters())
                assert torch.equal(ids, batch(step)[0])
            loss = game.learner.update(move, (ids, y))["loss"]
            assert loss.shape == ()
            assert loss.isfinite()
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v[0] == "text-at"], ids="-".join)
def test_the_move_is_allowed_and_the_payoff_is_per_example_and_no_lower_than_natures(variant: tuple[str, str]) -> None:
    model, (ids, y) = network(variant), batch(3)
    for _ in play(made(variant, model, lr=0.3), [batch(k) for k in range(3)]):
        pass
    game, method = made(variant, model, attacked=1.0), variant[1]
    move = game.adversary.respond(model, (ids, y))
    with frozen(model), torch.no_grad():
        value, clean = game.payoff(model, move, (ids, y)), F.cross_entropy(model(ids), y, reduction="none")
    assert value.shape == (32,)
    assert value.isfinite().all()
    unit, x = mean_norm(model), model.embed(ids).detach()
    if method in ("fgm", "pgd", "freelb", "vat", "smart"):
        assert TokenBall(0.1, unit).contains(move, x).all()
    elif method == "neftune":
        assert SentenceBall(5.0, unit).contains(move, x).all()
    elif method == "a2t":
        assert Substituted(TABLE, 0.2, 1).contains(move, ids).all()
        assert (move != ids).any()
    elif method == "random-substitution":
        assert Substituted(TABLE, 1.0).contains(move, ids).all()
    elif method == "ascc":
        torch.testing.assert_close(move.sum(-1), torch.ones(32, L))
    else:
        assert torch.equal(move, ids)
    if method in ("fgm", "pgd", "a2t"):
        assert (value >= clean - 1e-5).all()
    if method == "ibp":
        assert (value >= clean - 1e-5).all()


def test_a_sentence_ball_is_smaller_than_token_balls_and_a_larger_one_is_worse() -> None:
    variant, (ids, y) = ("text-at", "pgd"), batch(3)
    model = network(variant)
    values = []
    for changes in ({"ball": "sentence", "eps": 0.1}, {"eps": 0.1}, {"eps": 0.3}):
        game = made(variant, model, **changes)
        move = game.adversary.respond(model, (ids, y))
        with frozen(model), torch.no_grad():
            values.append(game.payoff(model, move, (ids, y)).mean().item())
    assert values == sorted(values)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_the_first_part_of_training_is_standard_training(variant: tuple[str, str]) -> None:
    """Bit for bit, up to the exchange of terms, which is off here."""
    found, weights = systems.find(variant[0]), []
    for other in (False, True):
        model = network(variant)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tools = Tools(rng=torch.Generator().manual_seed(0), progress=Progress(0.1))
        if other:
            game = standard.game(standard.Config(), model=model, optimizer=optimizer, tools=tools)
            assert isinstance(game.adversary, Nature)
        elif variant[0] == "text-at":
            config = text_at.Config(method=variant[1], warmup=0.2)  # type: ignore[arg-type]
            game = found.game(config, model=model, optimizer=optimizer, tools=tools, neighbours=TABLE)
        else:
            config = moderation.Config(adversary=variant[1], warmup=0.2, swap=0.0)  # type: ignore[arg-type, assignment]
            game = found.game(config, model=model, optimizer=optimizer, tools=tools, vocabulary=VOCABULARY)
        torch.manual_seed(0)
        list(play(game, [batch(0), batch(1)]))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_training_against_it_lowers_what_pgd_wins() -> None:
    worst = {}
    for method in ("none", "pgd"):
        model = network(("text-at", "ibp"))  # a bag of words, which learns this in seconds
        list(play(made(("text-at", method), model, lr=1.0, eps=0.3), [batch(k) for k in range(150)]))
        game, (ids, y) = made(("text-at", "pgd"), model, eps=0.3, steps=10), batch(999, 256)
        z = game.adversary.respond(model, (ids, y))
        with frozen(model), torch.no_grad():
            worst[method] = game.payoff(model, z, (ids, y)).mean().item()
    assert worst["pgd"] < 0.9 * worst["none"]


def test_what_exchanges_words_needs_a_table() -> None:
    for method in text_at.WITH_TABLE:
        with pytest.raises(ValueError, match="'neighbours' parameter"):
            text_at.game(text_at.Config(method=method), model=network(("", method)))  # type: ignore[arg-type]


def test_tricks_do_what_they_are_called() -> None:
    (ids, _), rng = batch(5, 512), torch.Generator().manual_seed(0)
    z = misspelt(ids, rng, share=0.3)
    assert ((z == ids) | (z == 1)).all()
    assert (z[ids == 0] == 0).all()
    assert (z == 1)[ids != 0].double().mean() == pytest.approx(0.3, abs=0.03)
    pool = torch.tensor([30, 31])
    z = appended(ids, rng, pool=pool, most=3, length=L + 2)
    words = (ids != 0).sum(1)
    assert z.shape == (512, L + 2)
    assert torch.equal(z[:, :L] * (ids != 0), ids)
    added = (z != 0).sum(1) - words
    assert added.min() >= 1
    assert added.max() == 3
    assert (added == 1).any()
    assert torch.isin(z[(F.pad(ids, (0, 2)) == 0) & (z != 0)], pool).all()
    assert ((z != 0).long().diff(dim=1) <= 0).all()  # no gap
    terms = torch.tensor([5, 6, 7])
    z = swapped(ids, rng, terms=terms, share=1.0)
    held = torch.isin(ids, terms)
    assert torch.equal(z[~held], ids[~held])
    assert torch.isin(z[held], terms).all()
    assert (z[held] == 5).double().mean() == pytest.approx(1 / 3, abs=0.1)
    assert torch.equal(swapped(ids, rng, terms=terms[:0], share=1.0), ids)


def test_the_worst_of_a_few_tricks_is_no_better_for_the_model_than_none() -> None:
    variant, (ids, y) = ("moderation", "tricks"), batch(3)
    model = network(variant)
    for _ in play(made(variant, model, lr=0.3), [batch(k) for k in range(3)]):
        pass
    drawn = tricks(TABLE, VOCABULARY.pool, words=0.5, misspellings=0.5, append=4, length=L + 4)
    means = []
    for draws in (0, 1, 3, 9):
        z = Tricks(drawn, draws, torch.Generator().manual_seed(0)).respond(model, (ids, y))
        with frozen(model), torch.no_grad():
            value = F.cross_entropy(model(z), y, reduction="none")
            assert (value >= F.cross_entropy(model(ids), y, reduction="none") - 1e-5).all()
        means.append(value.mean().item())
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_moderation_plays_a_trick_and_an_offset_and_its_objective_is_the_formula() -> None:
    model, (ids, y), a = network(("moderation", "both")).eval(), batch(2), 0.3
    game = made(("moderation", "both"), model, swap=0.7, weight=a)
    s, z, point = game.adversary.respond(model, (ids, y))
    assert s.shape == ids.shape
    assert (s != ids).any()
    assert torch.isin(s[s != ids], VOCABULARY.terms).all()
    assert TokenBall(0.1, mean_norm(model)).contains(point, model.embed(z).detach()).all()
    assert game.payoff(model, (s, z, point), (ids, y)).shape == (32,)
    clean, attacked = (F.cross_entropy(model(each), y, reduction="none") for each in (s, point))
    wanted = (1 - a) * clean + a * attacked
    torch.testing.assert_close(moderation.objective(a)(model, (s, z, point), (ids, y)), wanted)
    torch.testing.assert_close(moderation.objective(a)(model, (s,), (ids, y)), clean)


def test_the_terms_are_plain_single_words() -> None:
    terms = moderation.identity_terms()
    assert len(terms) == len(set(terms)) > 50
    assert all(term.isalpha() and term == term.lower() for term in terms)
