"""EGAT against its formula written out, its limits, its masks, and the attack that sees explanations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.cam import alive, grad_cam, normalised
from sparring.core.game import play
from sparring.core.gradient import frozen
from sparring.core.masker import WithMask, masking_loss
from sparring.core.mixing import beta, same_class_partners
from sparring.core.players import Attacker, Nature
from sparring.core.schedule import Progress
from sparring.core.threat import ball
from sparring.core.tools import Tools
from sparring.core.view import Fast, Speed
from sparring.systems import egat, mixed_at, standard

B, K = 6, 3


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, K))
    return nn.Sequential(*layers).double()


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, and a move."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(B, 1, 6, 6, generator=rng, dtype=torch.float64)
    return x, torch.arange(B) % K, (x + 0.1 * torch.randn(x.shape, generator=rng, dtype=torch.float64)).clamp(0, 1)


def tools(seed: int = 3, progress: float = 1.0) -> Tools:
    return Tools(rng=torch.Generator().manual_seed(seed), progress=Progress(progress))


def descended(config: egat.Config, model: nn.Module, move: object, given: tuple[Tensor, ...], hands: Tools) -> Tensor:
    answer = egat.objective(config, egat.Explained(config.layer), hands)(model, move, given)
    assert isinstance(answer, tuple)
    assert answer[0].shape == (B,)
    return answer[0]


def explained_by_hand(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and maps from the model's parts, the class score differentiated by hand: the head is linear."""
    features = model[:3](x)
    logits = model[4](features.flatten(1))
    alpha = model[4].weight[y].view(B, 4, 6, 6).mean((2, 3), keepdim=True)
    return logits, (alpha * features).sum(1).clamp(min=0)


def on_own_scale(cam: Tensor) -> Tensor:
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
    return (cam - low) / (high - low + 1e-8)


def test_loss_and_gradient_are_those_of_the_formula_written_out() -> None:
    x, y, z = batch()
    mask = torch.rand(B, 6, 6, generator=torch.Generator().manual_seed(5)) > 0.5
    config = egat.Config(adversarial=0.7, stability=0.6, mask="given", mix=0.3, ramp=0.0)
    ours, theirs = network(), network()
    loss = descended(config, ours, z, (x, y, mask), tools())
    found = torch.autograd.grad(loss.mean(), list(ours.parameters()))

    rng = torch.Generator().manual_seed(3)
    partners, share = same_class_partners(y, rng), beta(0.2, x, rng)
    u = share[:, None, None, None] * x + (1 - share)[:, None, None, None] * x[partners]
    (clean, cam), (attacked, cam_z), (mixed, cam_u) = (explained_by_hand(theirs, each, y) for each in (x, z, u))
    g, g_z, g_u = on_own_scale(cam), on_own_scale(cam_z), on_own_scale(cam_u)
    total = F.cross_entropy(clean, y) + 0.7 * F.cross_entropy(attacked, y)
    says = (cam.amax((1, 2)) > 0) & (cam_z.amax((1, 2)) > 0)
    total = total + 0.6 * ((g_z - g.detach()).abs().mean((1, 2)) * says).mean()
    total = total + 0.6 * F.binary_cross_entropy(g, mask.double())
    wanted = share[:, None, None] * g + (1 - share)[:, None, None] * g[partners]
    total = total + 0.3 * (g_u - wanted).abs().mean()
    total = total + 0.3 * 0.5 * (g.mean() + g_u.mean()) / 2 + 0.3 * 0.1 * F.cross_entropy(mixed, y)
    torch.testing.assert_close(loss.mean(), total, atol=1e-9, rtol=0)
    for a, b in zip(found, torch.autograd.grad(total, list(theirs.parameters())), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def trained(system: object, config: object, rounds: int = 4) -> dict[str, Tensor]:
    x, y, _ = batch()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    game = system.game(config, model=model, optimizer=optimizer, tools=tools())  # type: ignore[attr-defined]
    list(play(game, [(x, y)] * rounds))
    return model.state_dict()


def test_without_explanations_it_is_mixed_adversarial_training() -> None:
    ours = trained(egat, egat.Config(stability=0.0, mix=0.0))
    theirs = trained(mixed_at, mixed_at.Config())
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-12, rtol=0)


def test_without_adversary_and_explanations_it_is_standard_training() -> None:
    ours = trained(egat, egat.Config(adversarial=0.0, stability=0.0, mix=0.0))
    theirs = trained(standard, standard.Config())
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-12, rtol=0)


def test_no_adversary_means_no_attack() -> None:
    config = egat.Config(adversarial=0.0)
    assert isinstance(egat.adversary(config, egat.Explained(""), None, tools()), Nature)


def test_stability_ramps_and_its_clean_map_carries_no_gradient() -> None:
    x, y, z = batch()
    config = egat.Config(mix=0.0, ramp=0.5, stability=0.8)
    plain = egat.Config(mix=0.0, stability=0.0)
    model = network()
    without = descended(plain, model, z, (x, y), tools())
    parts = {at: descended(config, model, z, (x, y), tools(progress=at)) - without for at in (0.0, 0.25, 0.5, 1.0)}
    assert parts[0.0].abs().max() < 1e-12
    torch.testing.assert_close(2 * parts[0.25], parts[0.5])
    torch.testing.assert_close(parts[0.5], parts[1.0])
    layer = model[2]
    (_, cam), (_, cam_z) = (grad_cam(model, each, y, layer, create_graph=True) for each in (x, z))
    fixed = 0.8 * (egat.apart(normalised(cam_z), normalised(cam).detach()) * (alive(cam) & alive(cam_z))).mean()
    wanted = torch.autograd.grad(fixed, list(model.parameters()), allow_unused=True)
    found = torch.autograd.grad(parts[1.0].mean(), list(model.parameters()), allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        if a is None or b is None:
            assert all(each is None or each.abs().max() < 1e-12 for each in (a, b))
        else:
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6)


def test_an_example_whose_map_is_zero_has_no_stability_term() -> None:
    x, y, z = batch()
    model = network()
    with torch.no_grad():
        model[4].weight[y[0]] = -1.0  # its class is only ever argued against: the map is zero
    _, cam = grad_cam(model.train(), x, y, model[2])
    silent = ~alive(cam)
    assert silent[0]
    assert not silent.all()
    config = egat.Config(mix=0.0, ramp=0.0)
    with_term = descended(config, model, z, (x, y), tools())
    without = descended(egat.Config(mix=0.0, stability=0.0), model, z, (x, y), tools())
    assert (with_term - without)[silent].abs().max() == 0
    assert (with_term - without)[~silent].min() > 0


def test_a_map_that_dies_under_attack_or_was_dead_has_no_stability_term() -> None:
    x, y, z = batch()
    logits = torch.zeros(B, K, dtype=torch.float64)
    peak = torch.zeros(B, 4, 4, dtype=torch.float64)
    peak[:, 0, 0] = 1.0
    clean, attacked = peak.clone(), peak.clone().flip(1)
    clean[0], attacked[1] = 0.0, 0.0
    given = iter((clean, attacked))
    config = egat.Config(mix=0.0, ramp=0.0, stability=1.0)

    def explained(*_: object, **__: object) -> tuple[Tensor, Tensor]:
        return logits, next(given)

    answer = egat.objective(config, explained, tools())(network(), z, (x, y))  # type: ignore[arg-type]
    moved = answer[0] - 2 * F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(moved, torch.tensor([0.0, 0.0] + [2 / 16] * (B - 2), dtype=torch.float64))


def test_maps_on_their_masks_cost_nothing_and_maps_off_them_much() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    on = torch.zeros(1, 4, 4)
    on[:, :2] = 1.0
    assert egat.off_the_mask(on, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert egat.off_the_mask(1 - on, mask).item() == pytest.approx(100.0)  # binary_cross_entropy's bound of a logarithm
    half = torch.full((1, 4, 4), 0.5)
    assert egat.off_the_mask(half, mask).item() == pytest.approx(torch.tensor(2.0).log().item())


def test_mixing_an_example_with_itself_leaves_only_sparsity_and_the_label() -> None:
    x, _, _ = batch()
    y = torch.arange(B)  # every example alone in its class is its own partner
    torch.manual_seed(0)
    model = nn.Sequential(*network()[:4], nn.Linear(4 * 36, B).double())
    config = egat.Config(adversarial=0.0, stability=0.0, mix=2.0)
    loss = descended(config, model, x, (x, y), tools())
    logits, cam = grad_cam(model, x, y, model[2])
    alone = F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(loss, alone + 2 * (0.5 * normalised(cam).mean((1, 2)) + 0.1 * alone))


def test_an_attack_that_sees_explanations_moves_the_map_further() -> None:
    x, y, _ = batch()
    model = network()
    moved = {}
    for mu in (0.0, 50.0):
        hands = tools()
        found = egat.adversary(egat.Config(explained_attack=mu, eps=0.1, steps=20), egat.Explained(""), None, hands)
        assert isinstance(found, Attacker)
        z = found.respond(model, (x, y))
        assert ball("linf", 0.1).contains(z, x).all()
        with frozen(model):
            maps = [normalised(grad_cam(model, each, y, model[2])[1]) for each in (x, z)]
        moved[mu] = egat.apart(*maps).mean().item()
    assert moved[50.0] > 1.2 * moved[0.0]


def test_an_attack_that_sees_explanations_looks_into_a_view() -> None:
    """A folded copy in another layout is the same function, so the attack finds the same."""
    x, y, _ = (part.float() if part.is_floating_point() else part for part in batch())
    model = network().float()
    config = egat.Config(explained_attack=1.0, eps=0.1, steps=3, random_start=False)
    answers = []
    for view in (None, Fast(model, x[:2], Speed(channels_last=True, folded=True))):
        hands = tools() if view is None else Tools(rng=torch.Generator().manual_seed(3), view=view)
        answers.append(egat.adversary(config, egat.Explained("2"), None, hands).respond(model, (x, y)))
    assert ((answers[0] - answers[1]).abs() < 1e-4).float().mean() > 0.95  # a sign may flip where a slope is rounding


def test_a_learned_mask_finds_the_object_and_goes_on_exactly_where_it_was() -> None:
    """The class is a bright square's side; the rest is noise. What is learned lies on it."""
    rng = torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(64, 1, 8, 8, generator=rng)
    y = torch.arange(64) % 2
    for i in range(64):
        x[i, 0, 2:5, (0 if y[i] else 5) : (3 if y[i] else 8)] = 1.0
    truth = x[:, 0] == 1.0
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    list(play(standard.game(standard.Config(), model=model, optimizer=optimizer), [(x, y)] * 60))
    before = copy.deepcopy(model.state_dict())
    player = WithMask(Nature(), tools=tools(), learning_rate=0.01)
    for _ in range(150):
        move, masks = player.respond(model, (x, y))
    assert torch.equal(move, x)
    assert masks.shape == (64, 8, 8)
    assert not masks.requires_grad
    inside = (masks * truth).sum() / masks.sum()
    assert inside > 2 * truth.float().mean()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    state = copy.deepcopy(player.state_dict())
    again = WithMask(Nature(), tools=tools(9), learning_rate=0.01)
    again.load_state_dict(state)
    torch.testing.assert_close(again.respond(model, (x, y))[1], player.respond(model, (x, y))[1], atol=0, rtol=0)


def test_masking_loss_is_zero_for_a_mask_that_shows_all_and_hides_all_but_for_its_size() -> None:
    x, y, _ = batch()
    certain = nn.Sequential(nn.Flatten(), nn.Linear(36, K, bias=False)).double()
    with torch.no_grad():
        certain[1].weight.zero_()
        certain[1].weight[0] = 100.0
    ones = torch.ones(B, 1, 6, 6, dtype=torch.float64)
    loss = masking_loss(certain, x, torch.zeros_like(y), ones, small=0.25, smooth=7.0)
    third = torch.full((B,), (1 / K) ** 2 + 0.25, dtype=torch.float64)  # hidden, nothing is left: a guess of 1 / K
    torch.testing.assert_close(loss, third)
    loss = masking_loss(certain, x, torch.zeros_like(y), 0 * ones, small=0.25, smooth=7.0)
    torch.testing.assert_close(loss, torch.full((B,), (1 / K - 2) ** 2, dtype=torch.float64))


def test_masks_learned_are_played_and_paid_for() -> None:
    x, y, _ = batch()
    model = network()
    config = egat.Config(mask="learned", eps=0.05, steps=2)
    game = egat.game(config, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05), tools=tools())
    move = game.adversary.respond(model, (x, y))
    z, masks = move
    assert ball("linf", 0.05).contains(z, x).all()
    assert masks.shape == (B, 6, 6)
    torch.testing.assert_close(game.payoff(model.eval(), move, (x, y)), F.cross_entropy(model(z), y, reduction="none"))
    told = game.learner.update(move, (x, y))
    assert {"loss", "moved", "off the mask", "mixed"} == set(told)


@pytest.mark.parametrize(
    "changes",
    [{"mask": "drawn"}, {"adversarial": -1.0}, {"stability": float("nan")}, {"mix": -0.1}, {"ramp": 1.5},
     {"explained_attack": float("inf")}],
)  # fmt: skip
def test_config_refuses_what_is_outside(changes: dict[str, object]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"The '{name}' parameter must be"):
        egat.Config(**changes)  # type: ignore[arg-type]


def test_a_layer_that_is_not_there_is_named() -> None:
    x, y, z = batch()
    with pytest.raises(ValueError, match="'layer' parameter must be the name of a module"):
        descended(egat.Config(layer="conv9"), network(), z, (x, y), tools())
