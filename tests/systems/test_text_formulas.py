"""The mathematics of text-at, each method against its formula written out by hand, in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.tools import Tools
from sparring.domains.text.ball import SentenceBall, TokenBall
from sparring.domains.text.embedded import embed, mean_norm, parts
from sparring.domains.text.models import BagOfWords, Convolution, Transformer, mean
from sparring.systems import text_at
from sparring.systems.text_at import boxes, hull, offsets, players
from sparring.systems.text_at.substitutes import Drawn, Ranked, Substituted, budget, choices

V, D, K = 12, 4, 3
IDS = torch.tensor([[2, 3, 4, 5, 0], [6, 7, 0, 0, 0], [8, 9, 10, 11, 2]])
Y = torch.tensor([0, 2, 1])
TABLE = torch.arange(V)[:, None].repeat(1, 3)
for word, others in {2: (3, 4), 3: (2,), 5: (6, 7, 8), 9: (10, 11), 7: (8,)}.items():
    TABLE[word, : len(others)] = torch.tensor(others)


class Tiny(nn.Module):
    """The mean of the embeddings of real tokens, and two layers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.first, self.second = nn.Linear(D, 6), nn.Linear(6, K)

    def embed(self, ids: Tensor) -> Tensor:
        return embed(self.embedding, ids)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(self.dropout(mean(*parts(self.embedding, x))))))
        return out


def tiny(seed: int = 0, dropout: float = 0.0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(dropout).double()


def played(model: Tiny, move: Tensor | None = None, seed: int = 7, lr: float = 0.5, **changes: object) -> Tensor:
    """Play one round by hand-made SGD; the move that was answered."""
    config = text_at.Config(warmup=0.0, **changes)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    tools = Tools(rng=torch.Generator().manual_seed(seed))
    game = text_at.game(config, model=model, optimizer=optimizer, tools=tools, neighbours=TABLE)
    answered: Tensor = game.adversary.respond(model, (IDS, Y)) if move is None else move
    game.learner.update(answered, (IDS, Y))
    return answered


def stepped(model: Tiny, loss: Tensor, lr: float = 0.5) -> list[Tensor]:
    """The parameters one SGD step down a loss."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [p.detach() - lr * g for p, g in zip(model.parameters(), gradients, strict=True)]


def same(model: Tiny, wanted: list[Tensor]) -> None:
    for have, want in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(have.detach(), want, atol=1e-9, rtol=1e-7)


def by_hand(model: Tiny, weight: float, offset: Tensor) -> list[Tensor]:
    clean = F.cross_entropy(model(IDS), Y)
    moved = F.cross_entropy(model(model.embed(IDS) + offset), Y)
    return stepped(model, (1 - weight) * clean + weight * moved)


def slope(model: Tiny, z: Tensor) -> Tensor:
    z = z.detach().requires_grad_(True)
    value = F.cross_entropy(model(z), Y, reduction="sum")
    gradient = torch.autograd.grad(value, z)[0][..., :-1] * (IDS != 0)[..., None]
    return F.pad(gradient, (0, 1))


def norm(model: Tiny) -> float:
    return float(model.embedding.weight[1:].detach().norm(dim=1).mean())


@pytest.mark.parametrize("ball", ["token", "sentence"])
def test_fgm_is_one_normalised_step_and_the_sum_of_both_losses(ball: str) -> None:
    model, weight, eps = tiny(), 0.3, 0.7
    assert mean_norm(model) == pytest.approx(norm(model), rel=1e-6)
    g = slope(model, model.embed(IDS))
    length = g.norm(dim=-1, keepdim=True) if ball == "token" else g.norm(dim=(1, 2), keepdim=True)
    offset = eps * norm(model) * g / length.clamp(min=1e-12)
    wanted = by_hand(model, weight, offset)
    z = played(model, method="fgm", eps=eps, ball=ball, weight=weight)
    torch.testing.assert_close(z, tiny().embed(IDS) + offset)
    same(model, wanted)


def test_pgd_is_projected_ascent_from_a_point_of_the_ball() -> None:
    model, eps, steps, step_size = tiny(), 0.6, 3, 0.8
    radius = eps * norm(model)
    x = model.embed(IDS).detach()
    z = TokenBall(eps, mean_norm(model)).sample(x, torch.Generator().manual_seed(7))
    for _ in range(steps):
        g = slope(model, z)
        z = z + step_size * radius * g / g.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        d = z - x
        z = x + d * (radius / d.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    wanted = by_hand(model, 0.5, z - x)
    answered = played(model, method="pgd", eps=eps, steps=steps, step_size=step_size)
    torch.testing.assert_close(answered, z)
    same(model, wanted)


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_freelb_averages_the_gradient_along_the_ascent_in_one_step(weight: float) -> None:
    model, eps, steps, step_size = tiny(), 0.6, 3, 0.4
    radius, x = eps * norm(model), model.embed(IDS).detach()
    start = SentenceBall(eps, mean_norm(model)).sample(x, torch.Generator().manual_seed(7))
    offset, loss = start - x, (1 - weight) * F.cross_entropy(model(IDS), Y)
    for _ in range(steps):
        loss = loss + weight / steps * F.cross_entropy(model(model.embed(IDS) + offset), Y)
        g = slope(model, x + offset)
        offset = offset + step_size * radius * g / g.norm(dim=(1, 2), keepdim=True)
        offset = offset * (radius / offset.norm(dim=(1, 2), keepdim=True)).clamp(max=1)
    wanted = stepped(model, loss)
    z = played(model, method="freelb", eps=eps, ball="sentence", steps=steps, step_size=step_size, weight=weight)
    torch.testing.assert_close(z, start)
    same(model, wanted)


def test_freelb_ascends_one_network_with_dropout() -> None:
    """With steps too short to move, all K passes are the same pass, so their mean is any of them."""
    weights = []
    for steps in (1, 4):
        model = tiny(dropout=0.5)
        torch.manual_seed(3)
        played(model, move=model.embed(IDS).detach(), method="freelb", steps=steps, step_size=1e-12, weight=1.0)
        weights.append([p.detach().clone() for p in model.parameters()])
    same(model, weights[0])


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1)


def test_vat_follows_the_curvature_without_labels() -> None:
    model, eps, strength, xi = tiny(), 0.6, 1.7, 0.1
    x, ball = model.embed(IDS).detach(), TokenBall(eps, mean_norm(model))
    d = ball.sample(x, torch.Generator().manual_seed(7)) - x
    z = (x + xi * eps * norm(model) * d / d.norm(dim=-1, keepdim=True).clamp(min=1e-12)).requires_grad_(True)
    (g,) = torch.autograd.grad(divergence(model(x).detach(), model(z)).sum(), z)
    g = F.pad(g[..., :-1] * (IDS != 0)[..., None], (0, 1))
    offset = eps * norm(model) * g / g.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    logits = model(IDS)
    apart = divergence(logits.detach(), model(model.embed(IDS) + offset))
    wanted = stepped(model, F.cross_entropy(logits, Y) + strength * apart.mean())
    z = played(model, method="vat", eps=eps, strength=strength)
    torch.testing.assert_close(z, x + offset)
    same(model, wanted)


def test_smart_is_smoothness_and_a_proximal_point_and_keeps_its_radius() -> None:
    model, mu, decay = tiny(), 0.8, 0.9
    config = text_at.Config(method="smart", eps=0.4, strength=1.3, proximal=mu, decay=decay, warmup=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    game = text_at.game(config, model=model, optimizer=optimizer, tools=Tools(rng=torch.Generator().manual_seed(7)))
    average = [p.detach().clone() for p in model.parameters()]
    other = tiny()
    for _ in range(3):
        x = model.embed(IDS).detach()
        z = game.adversary.respond(model, (IDS, Y))
        offset = z - x
        assert (offset.norm(dim=-1) <= 0.4 * norm(model) * (1 + 1e-6)).all()
        assert offset.norm(dim=-1)[IDS != 0].max() > 0.39 * norm(model)
        for p, kept in zip(other.parameters(), average, strict=True):
            p.data.copy_(kept)
        logits = model(IDS)
        moved = model(model.embed(IDS) + offset)
        symmetric = divergence(logits, moved) + divergence(moved, logits)
        before = other(IDS).detach()
        bregman = divergence(logits, before) + divergence(before, logits)
        wanted = stepped(model, F.cross_entropy(logits, Y) + (1.3 * symmetric + mu * bregman).mean())
        game.learner.update(z, (IDS, Y))
        same(model, wanted)
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, model.parameters(), strict=True)]


def test_neftune_noise_has_its_scale_whatever_the_length() -> None:
    model, alpha = tiny(), 2.0
    x = model.embed(IDS[:1].repeat(20_000, 1)).detach()
    unit = mean_norm(model)
    z = offsets.noise(lambda z: z.sum((1, 2)), x, SentenceBall(alpha, unit), rng=torch.Generator().manual_seed(0))
    offset = (z - x)[..., :-1]
    n = int((IDS[0] != 0).sum())
    assert offset.abs().max() <= alpha * unit / (n * D) ** 0.5
    assert offset[:, n:].abs().max() == 0
    assert torch.equal(z[..., -1], x[..., -1])
    assert float(offset[:, :n].square().mean()) == pytest.approx(alpha**2 * unit**2 / (n * D) / 3, rel=0.01)
    assert SentenceBall(alpha, unit).contains(z, x).all()
    wanted_from = played(model, method="neftune", alpha=alpha, weight=0.5)
    assert SentenceBall(alpha, unit).contains(wanted_from, tiny().embed(IDS)).all()


def test_a_hull_holds_its_corners_and_its_entropy_is_shannons() -> None:
    model = tiny()
    candidates, allowed = choices(IDS, TABLE)
    assert candidates[0, 0].tolist() == [2, 3, 4, 2]
    assert allowed[0, 0].tolist() == [True, True, True, False]
    one_hot = F.one_hot(torch.ones_like(IDS), 4).double()
    chosen = hull.mixed(hull.corners(model, candidates), one_hot)
    torch.testing.assert_close(chosen, model.embed(candidates[..., 1]))
    u = torch.tensor([[[0.0, 0.0, -torch.inf], [1.0, 2.0, 0.5]]], dtype=torch.float64)
    p = u[0, 1].softmax(0)
    torch.testing.assert_close(hull.entropy(u)[0, 0], torch.tensor(2.0).double().log())
    torch.testing.assert_close(hull.entropy(u)[0, 1], -(p * p.log()).sum())
    torch.testing.assert_close(
        hull.penalty(u, torch.tensor([[1.0, 0.0]]).double())[0], torch.tensor(2.0).double().log()
    )


def test_ascc_ascends_the_loss_less_the_entropy() -> None:
    model, sparsity, steps = tiny(), 3.0, 2
    candidates, allowed = choices(IDS, TABLE)
    u = torch.randn(candidates.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    u = u.masked_fill(~allowed, -torch.inf)
    real = (IDS != 0).double()
    for _ in range(steps):
        u = u.detach().requires_grad_(True)
        w = u.softmax(-1)
        v = (w[..., None] * model.embed(candidates.reshape(3, -1)).reshape(3, 5, 4, -1)).sum(2)
        terms = torch.where(w > 0, w * w.clamp(min=1e-300).log(), 0.0)
        h = (-terms.sum(-1) * real).sum(1) / real.sum(1)
        g = torch.autograd.grad((F.cross_entropy(model(v), Y, reduction="none") - sparsity * h).sum(), u)[0]
        u = u.detach() + g / g.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    w = u.softmax(-1)
    v = (w[..., None] * model.embed(candidates.reshape(3, -1)).reshape(3, 5, 4, -1)).sum(2)
    logits = model(IDS)
    wanted = stepped(model, F.cross_entropy(logits, Y) + 4 * divergence(logits, model(v)).mean())
    weights = played(model, method="ascc", sparsity=sparsity, steps=steps)
    torch.testing.assert_close(weights, w)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 5).double())
    assert (weights[~allowed] == 0).all()
    same(model, wanted)


def test_sparsity_drives_the_hull_to_its_corners() -> None:
    model = tiny()
    entropies = []
    for sparsity in (0.0, 50.0):
        w = hull.Hull(TABLE, 10, 1.0, sparsity, torch.Generator().manual_seed(0)).respond(model, (IDS, Y))
        entropies.append(float(-torch.xlogy(w, w).sum()))
    assert entropies[1] < 0.1 * entropies[0]


def allowed_texts(row: int) -> list[list[int]]:
    return [list(each) for each in itertools.product(*(sorted({i, *TABLE[i].tolist()}) for i in IDS[row].tolist()))]


def test_a2t_is_greedy_along_the_gradient_and_stays_in_its_budget() -> None:
    model = tiny()
    threat = Substituted(TABLE, 0.5, 1)
    z = Ranked(threat).respond(model, (IDS, Y))
    assert threat.contains(z, IDS).all()
    assert (z != IDS).any()
    for row in range(3):
        g = slope(model, model.embed(IDS))[row].norm(dim=-1)
        sites = sorted((i for i in range(5) if (TABLE[IDS[row, i]] != IDS[row, i]).any()), key=lambda i: -g[i])
        text = IDS[row].clone()
        value = F.cross_entropy(model(text[None]), Y[row : row + 1])
        for i in sites[: int(budget(IDS, 0.5, 1)[row])]:
            for other in TABLE[IDS[row, i]].tolist():
                tried = text.clone()
                tried[i] = other
                if (loss := F.cross_entropy(model(tried[None]), Y[row : row + 1])) > value + 1e-12:
                    value, best = loss, tried
                    text = torch.where(torch.arange(5) == i, best, text)
        assert torch.equal(z[row], text)


def test_the_words_threat_refuses_strangers_and_too_many() -> None:
    threat = Substituted(TABLE, 0.5, 1)
    z = IDS.clone()
    z[0, 0], z[0, 1] = 3, 2  # two of four words
    assert threat.contains(z, IDS).tolist() == [True, True, True]
    z[0, 3] = 6  # a third
    z[1, 0] = 7  # 6 has no substitutes
    z[2, 4] = 0  # padding is nobody's substitute
    assert threat.contains(z, IDS).tolist() == [False, False, False]
    assert budget(IDS, 0.2, 1).tolist() == [1, 1, 1]
    assert budget(IDS, 0.4, 1).tolist() == [1, 1, 2]


def test_random_substitution_draws_each_substitute_as_often() -> None:
    ids = torch.tensor([[5, 9, 4, 0]]).repeat(30_000, 1)
    z = Drawn(TABLE, 0.5, torch.Generator().manual_seed(0)).respond(tiny(), (ids, Y))
    share = [(z[:, 0] == word).double().mean().item() for word in (5, 6, 7, 8)]
    assert share == pytest.approx([0.5, 1 / 6, 1 / 6, 1 / 6], abs=0.01)
    assert [(z[:, 1] == word).double().mean().item() for word in (9, 10, 11)] == pytest.approx(
        [0.5, 0.25, 0.25], abs=0.01
    )
    assert torch.equal(z[:, 2:], ids[:, 2:])


def certifiable(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = BagOfWords(V, K, width=D, hidden=6) if kind == "bow" else Convolution(V, K, width=D, channels=6)
    (model.layers[-1] if kind == "bow" else model.head).weight.data.mul_(10)
    return model.double().eval()


@pytest.mark.parametrize("kind", ["bow", "cnn"])
def test_the_bounds_hold_for_every_combination_of_substitutes(kind: str) -> None:
    certified = 0
    for seed in range(20):
        model = certifiable(kind, seed)
        y = model(IDS).argmax(1)
        candidates = choices(IDS, TABLE)[0]
        bounds = boxes.margins(model, *boxes.box(model, candidates), y)
        proved = boxes.certified(model, candidates, y)
        worst = boxes.worst_loss(model, IDS, y, TABLE)
        for row in range(3):
            logits = model(torch.tensor(allowed_texts(row)))
            apart = logits[:, y[row], None] - logits
            assert (apart >= bounds[row] - 1e-9).all()
            assert (F.cross_entropy(logits, y[row].expand(len(logits)), reduction="none") <= worst[row] + 1e-9).all()
            if proved[row]:
                assert (logits.argmax(1) == y[row]).all()
        certified += int(proved.sum())
    assert 0 < certified < 60


@pytest.mark.parametrize("kind", ["bow", "cnn"])
def test_a_box_without_substitutes_is_the_text(kind: str) -> None:
    model, alone = certifiable(kind, 0), torch.arange(V)[:, None]
    logits = model(IDS)
    apart = logits.gather(1, Y[:, None]) - logits
    torch.testing.assert_close(boxes.margins(model, *boxes.box(model, choices(IDS, alone)[0]), Y), apart)
    torch.testing.assert_close(
        boxes.worst_loss(model, IDS, Y, TABLE, 0.0), F.cross_entropy(logits, Y, reduction="none")
    )
    grown = [boxes.worst_loss(model, IDS, Y, TABLE, share).sum().item() for share in (0.0, 0.3, 0.7, 1.0)]
    assert grown == sorted(grown)


def test_ibp_mixes_along_its_schedule_and_needs_a_model_with_bounds() -> None:
    config = text_at.Config(method="ibp", warmup=0.1, growth=0.5, kappa=0.4)
    assert players.stage(config, 0.05) == (0.0, 1.0)
    assert players.stage(config, 0.35) == pytest.approx((0.5, 0.7))
    assert players.stage(config, 0.6) == pytest.approx((1.0, 0.4))
    model = certifiable("bow", 0).train()
    model.layers[0].p = 0.0
    wanted = stepped(
        model,
        0.4 * F.cross_entropy(model(IDS), Y) + 0.6 * boxes.worst_loss(model, IDS, Y, TABLE).mean(),
    )
    played(model, method="ibp", kappa=0.4)  # type: ignore[arg-type]
    same(model, wanted)  # type: ignore[arg-type]
    attention = Transformer(V, K, 5, width=4, heads=2)
    with pytest.raises(ValueError, match=r"models bow and cnn\. Got Transformer"):
        boxes.worst_loss(attention, IDS, Y, TABLE)
