"""A view is the eval-mode model to rounding, follows its weights, and never touches it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sparring.core.gradient import frozen, value_and_gradient
from sparring.core.payoff import cross_entropy
from sparring.core.pgd import pgd
from sparring.core.players import Attacker
from sparring.core.threat import Linf
from sparring.core.view import Compiled, Fast, Pool, Speed, disagreement, foldable


class Block(nn.Module):
    """conv-BN twice around a skip: the first BatchNorm reads its convolution alone, and so does the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=True), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Shared(nn.Module):
    """The convolution's output is read twice: its BatchNorm must not be folded away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return h + self.bn(h)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), Block(), Shared()),
        *(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)),
    ).to(dtype)
    disturb(model)
    return model.train()


def disturb(model: nn.Module) -> None:
    """Statistics of BatchNorm as after some training, affine parameters that are not the identity's."""
    rng = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=rng) + 0.5)
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=rng))
    for _ in range(20):
        model.train()(torch.rand(32, 1, 8, 8, generator=rng, dtype=torch.float64).to(next(model.parameters()).dtype))


def images(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    x = torch.rand(6, 1, 8, 8, generator=rng, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 5, (6,), generator=rng)


def of(model: nn.Module, speed: Speed) -> Fast:
    with frozen(model):
        return Fast(model, images(next(model.parameters()).dtype)[0][:2], speed)


def gradient(seen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return value_and_gradient(lambda z: cross_entropy(seen(z), y), x)[1]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_a_float64_view_is_the_eval_mode_model(channels_last: bool, folded: bool) -> None:
    model, (x, y) = network(torch.float64), images(torch.float64)
    fast = of(model, Speed(channels_last=channels_last, folded=folded))
    with fast(model) as seen, frozen(model):
        torch.testing.assert_close(seen(x), model(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(seen, x, y), gradient(model, x, y), rtol=1e-10, atol=1e-12)


def test_batch_norm_is_folded_exactly_where_it_reads_one_layer_alone() -> None:
    assert foldable(network()) == [("0", "1"), ("4.conv1", "4.bn1"), ("4.conv2", "4.bn2"), ("7", "8")]


def test_a_model_that_cannot_be_traced_is_not_folded() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if x.sum() > 0 else self.body(-x)

    model = Branching()
    assert foldable(model) == []
    x, _ = images()
    with of(model, Speed(folded=True))(model) as seen, frozen(model):
        torch.testing.assert_close(seen(x), model(x))


def test_the_view_follows_the_weights_and_the_statistics() -> None:
    model, (x, y) = network(), images()
    fast = of(model, Speed(channels_last=True, folded=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    cross_entropy(model(x), y).mean().backward()
    optimizer.step()
    with frozen(model):
        stale = disagreement(fast.seen, model(x), x)
        with fast(model) as seen:
            assert disagreement(seen, model(x), x) < 1e-5 < 0.01 < stale


def test_the_bfloat16_view_is_near_and_answers_in_float32() -> None:
    model, (x, y) = network(), images()
    with of(model, Speed(channels_last=True, bfloat16=True, folded=True))(model) as seen, frozen(model):
        assert seen(x).dtype == torch.float32
        assert 0 < disagreement(seen, model(x), x) < 0.05
        near, exact = gradient(seen, x, y).flatten(), gradient(model, x, y).flatten()
        assert torch.cosine_similarity(near, exact, dim=0) > 0.99


def test_the_last_layer_of_the_bfloat16_view_is_in_float32() -> None:
    """A logit of 1000 moves by 1e-2 with its bias; in bfloat16 its neighbours are 4 apart."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight.data.zero_()
    model[1].bias.data.copy_(torch.tensor([1000.01, 0.0]))
    fast = Fast(model, torch.rand(1, 4), Speed(bfloat16=True))
    with fast(model) as seen:
        assert seen(torch.rand(1, 4))[0, 0].item() == pytest.approx(1000.01, abs=1e-3)


@pytest.mark.parametrize("speed", [Speed(folded=True), Speed(channels_last=True, bfloat16=True, folded=True)])
def test_the_model_is_not_touched(speed: Speed) -> None:
    model, (x, y) = network(), images()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    fast = of(model, speed)
    attack = Attacker(lambda m, z, b: cross_entropy(m(z), b[1]), Linf(0.1), pgd, view=fast)
    attack.respond(model, (x, y))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model[0].weight.is_contiguous()


def test_the_attack_through_a_view_is_the_attack_on_the_model() -> None:
    model, batch = network(torch.float64), images(torch.float64)

    def payoff(m: nn.Module, z: Tensor, b: tuple[Tensor, ...]) -> Tensor:
        return cross_entropy(m(z), b[1])

    def attack(gain: object, x: Tensor, threat: Linf, /, *, rng: torch.Generator | None = None) -> Tensor:
        return pgd(gain, x, threat, steps=5, random_start=False)

    plain = Attacker(payoff, Linf(0.1), attack).respond(model, batch)
    fast = of(model, Speed(channels_last=True, folded=True))
    torch.testing.assert_close(Attacker(payoff, Linf(0.1), attack, view=fast).respond(model, batch), plain)


def test_a_view_shows_the_model_it_was_made_of_and_no_other() -> None:
    model, other = network(), network()
    with pytest.raises(ValueError, match="another model"), of(model, Speed())(other):
        pass


def test_pooling_of_the_view_is_max_pooling_with_and_without_a_gradient() -> None:
    z = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    assert torch.equal(Pool()(z), nn.functional.max_pool2d(z, 2))
    assert torch.equal(Pool()(z[..., :7, :5]), nn.functional.max_pool2d(z[..., :7, :5], 2))
    asked = z.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(Pool()(asked).square().sum(), asked)
    (plain,) = torch.autograd.grad(nn.functional.max_pool2d(asked, 2).square().sum(), asked)
    assert torch.equal(ours, plain)
    pools = (nn.MaxPool2d(2), nn.MaxPool2d(3), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, stride=1))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), *pools)
    seen = Fast(model, torch.rand(1, 1, 20, 20), Speed(channels_last=True)).seen
    assert [isinstance(module, Pool) for module in seen.inner.children()] == [False, True, False, False, False]


def test_a_compiler_that_fails_is_left_for_the_module_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: nn.Module, **_: object) -> object:
        def fail(z: Tensor) -> Tensor:
            raise RuntimeError("no compiler\nof any kind")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)
    module = Compiled(nn.Linear(3, 2))
    x = torch.rand(4, 3)
    assert torch.equal(module(x), module.module(x))
    assert "no compiler" in str(module.failure)
    assert torch.equal(module(x), module.module(x))


def test_only_the_first_batch_size_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watch(module: nn.Module, **_: object) -> object:
        def compiled(z: Tensor) -> Tensor:
            sizes.append(len(z))
            return module(z)

        return compiled

    monkeypatch.setattr(torch, "compile", watch)
    module = Compiled(nn.Linear(3, 2))
    for size in (4, 2, 4):
        module(torch.rand(size, 3))
    assert sizes == [4, 4]


def test_what_is_on_is_what_a_speed_says() -> None:
    assert str(Speed()) == "as it is"
    assert str(Speed(channels_last=True, bfloat16=True)) == "channels-last + bfloat16"
