"""Models: published sizes, normalisation inside, small inputs, names, users' factories and the output check."""

import pytest
import torch
from torch import nn

from sparring.domains.image import (
    ModelError,
    Normalize,
    build,
    check_output,
    from_factory,
    preact_resnet18,
    small_conv,
    small_strided,
    wide_resnet,
)

CIFAR = ((3, 32, 32), 10, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
DIGITS = ((1, 8, 8), 10, (0.3,), (0.4,))


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(spec, *arguments):
    with torch.device("meta"):  # counting needs no memory
        return size(build(spec, *arguments))


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        (
            "preact-resnet18",
            11_171_146 + 2 * 512,
        ),  # the count of github.com/kuangliu/pytorch-cifar, which has no last BN
        ("small-strided", 470_918),  # Gowal et al. 2018, table 1: the "small" network of 471K
        ("wrn-28-10", 36_479_194),  # Zagoruyko & Komodakis 2016, table 4: 36.5 M; exactly in github.com/osmr/imgclsmob
        ("wrn-16-10", 17_116_634),  # osmr/imgclsmob
        ("wrn-40-8", 35_748_314),  # osmr/imgclsmob; the paper's table 4: 35.7 M
    ],
)
def test_parameters_are_as_many_as_published(spec, published):
    assert on_meta(spec, *CIFAR) == published


@pytest.mark.parametrize("spec", ["preact-resnet18", "wrn-10-2"])
def test_a_residual_network_takes_the_customary_learning_rate_from_its_first_step(spec):
    """SGD at 0.1 with momentum: without a BatchNorm after the last block the loss is in the thousands by step five."""
    torch.manual_seed(0)
    model = build(spec, (3, 16, 16), 10, (0.5,) * 3, (0.25,) * 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(6):
        x, y = torch.rand(16, 3, 16, 16), torch.randint(0, 10, (16,))
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 20


def test_small_conv_is_small_and_has_no_batch_norm():
    model = small_conv(*DIGITS)
    assert size(model) == 53_002
    assert size(small_conv((1, 28, 28), 10, (0.1,), (0.3,))) == 421_642
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_small_strided_has_neither_pooling_nor_batch_norm_and_as_many_units_as_published():
    """8.3 thousand hidden units on CIFAR-10 (Gowal et al. 2018, table 1)."""
    model, hidden = small_strided(*CIFAR), []
    for module in model:
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, inputs, output: hidden.append(output[0].numel()))
    model(torch.zeros(1, 3, 32, 32))
    assert hidden == [3600, 4608, 100]
    assert size(small_strided(*DIGITS)) == 38_406
    kinds = {type(module) for module in model}
    assert kinds == {Normalize, nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear}
    assert small_strided((1, 4, 9), 3, (0.5,), (1.0,))(torch.zeros(1, 1, 4, 9)).shape == (1, 3)


@pytest.mark.parametrize("spec", ["small-conv", "small-strided", "preact-resnet18", "wrn-10-1"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 28, 28)])
def test_any_small_image_gives_logits_and_gradients(spec, shape):
    model = build(spec, shape, 4, (0.5,) * shape[0], (0.25,) * shape[0])
    check_output(model, shape, 4)
    x = torch.rand(2, *shape, requires_grad=True)
    model(x).logsumexp(1).sum().backward()
    assert x.grad.abs().flatten(1).sum(1).gt(0).all()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_normalisation_is_the_first_layer_and_travels_with_the_weights():
    torch.manual_seed(0)
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.2, 0.3)
    model = build("wrn-10-1", (3, 8, 8), 5, mean, std).eval()
    plain = build("wrn-10-1", (3, 8, 8), 5, (0.0,) * 3, (1.0,) * 3).eval()
    weights = model.state_dict()
    assert any(key.endswith("mean") for key in weights)
    plain.load_state_dict({k: v for k, v in weights.items() if k not in ("0.mean", "0.std")}, strict=False)
    x = torch.rand(4, 3, 8, 8)
    by_hand = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(model(x), plain(by_hand))
    assert not torch.allclose(model(x), plain(x))
    plain.load_state_dict(weights)
    torch.testing.assert_close(model(x), plain(x))


def test_normalize_by_hand_and_its_errors():
    layer = Normalize((0.5,), (0.25,))
    assert layer(torch.tensor([[[[0.75]]]])).item() == 1.0
    assert size(layer) == 0
    for mean, std in (((0.5,), (0.0,)), ((0.5, 0.5), (1.0,))):
        with pytest.raises(ModelError, match="one number per channel, std > 0"):
            Normalize(mean, std)


def test_the_initial_scale_is_kaimings():
    torch.manual_seed(0)
    model = wide_resnet((3, 8, 8), 10, (0.5,) * 3, (0.25,) * 3, depth=10, width=4)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
        if isinstance(module, nn.Linear):
            assert not module.bias.any()


def test_the_seed_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build("small-conv", *DIGITS).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("wrn-27-10", *CIFAR), r"'depth' parameter must be 6n \+ 4 with n >= 1 .* Got 27"),
        (lambda: build("wrn-4-10", *CIFAR), "Got 4 instead"),
        (lambda: build("wrn-28-0", *CIFAR), r"'width' parameter must be an int in the range \[1, inf\). Got 0"),
        (lambda: build("preact-resnet-18", *CIFAR), "Got 'preact-resnet-18'. Did you mean 'preact-resnet18'?"),
        (lambda: build("smallconv", *CIFAR), "Did you mean 'small-conv'?"),
        (
            lambda: build("qqqq", *CIFAR),
            "one of small-conv, small-strided, resnet18, preact-resnet18, wrn-28-10, or wrn-D-W. Got 'qqqq'.$",
        ),
        (lambda: small_conv((1, 3, 8), 10, (0.5,), (1.0,)), "at least 4x4 pixels. Got 3x8"),
        (lambda: small_strided((1, 3, 8), 10, (0.5,), (1.0,)), "small-strided needs .* 4x4 pixels. Got 3x8"),
        (lambda: preact_resnet18((3, 8, 8), 10, (0.5,), (1.0,)), "for each of 3 channels. Got 1"),
        (lambda: small_conv((8, 8), 10, (0.5,), (1.0,)), r"must be \(C, H, W\)"),
        (lambda: small_conv((1, 8, 8), 0, (0.5,), (1.0,)), "'classes' parameter .* Got 0"),
    ],
)
def test_models_that_do_not_exist_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()


FACTORIES = """
import torch
from torch import nn

def both(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
def one(*, classes, width=3): return nn.Linear(width, classes)
def none(): return nn.Identity()
def rest(**options): return nn.Linear(len(options), options["classes"])
def fails(): raise RuntimeError("no such weights")
def number(): return 7
class Net(nn.Linear):
    def __init__(self, classes): super().__init__(2, classes)
constant = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "their_models.py").write_text(FACTORIES)
    (tmp_path / "their_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "outputs"), [("both", 5), ("one", 5), ("rest", 5), ("Net", 5), ("none", None)])
def test_a_factory_in_the_current_directory_gets_the_keywords_it_accepts(factories, name, outputs):
    import sys

    before = list(sys.path)
    model = from_factory(f"their_models:{name}", (1, 4, 4), 5)
    assert sys.path == before
    if outputs is not None:
        assert list(model.parameters())[-1].shape == (outputs,)
    if name == "rest":
        assert model.in_features == 2


@pytest.mark.parametrize(
    ("path", "message", "cause"),
    [
        ("their_models", "must be written 'package.module:factory'. Got 'their_models'", None),
        ("their_models:", "must be written", None),
        (":both", "must be written", None),
        ("no_such_module_here:f", "module of 'no_such_module_here:f' cannot be imported", ModuleNotFoundError),
        (
            "their_broken:f",
            "cannot be imported: ModuleNotFoundError: .*a_module_that_is_not_there",
            ModuleNotFoundError,
        ),
        ("their_models:nothing", "'their_models' must have a callable named 'nothing'. Got None", None),
        ("their_models:constant", "callable named 'constant'. Got 3", None),
        ("their_models:fails", "factory 'their_models:fails' failed: RuntimeError: no such weights", RuntimeError),
        ("their_models:number", "'their_models:number' must return an nn.Module. Got int", None),
    ],
)
def test_a_factory_that_is_not_one_is_refused(factories, path, message, cause):
    with pytest.raises(ModelError, match=message) as caught:
        from_factory(path, (1, 4, 4), 5)
    assert type(caught.value.__cause__) is (cause or type(None))


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        return self.answer(self.norm(x))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.flatten(1), r"float logits of shape \[2, 3\]. Got torch.float32 of \[2, 16\]"),
        (lambda x: x.new_zeros(3), r"Got torch.float32 of \[3\]"),
        (lambda x: x.new_zeros(2, 3, 1), r"Got torch.float32 of \[2, 3, 1\]"),
        (lambda x: torch.zeros(2, 3, dtype=torch.int64), r"Got torch.int64 of \[2, 3\]"),
        (lambda x: {"logits": x}, "Got dict"),
        (lambda x: x @ x.new_zeros(9, 9), r"fails on images of shape \[2, 1, 4, 4\]: mat1|fails on images of shape"),
    ],
)
def test_a_model_that_does_not_answer_with_logits_is_refused(answer, message):
    with pytest.raises(ModelError, match=message):
        check_output(Answers(answer), (1, 4, 4), 3)


def test_the_output_check_leaves_the_model_as_it_was():
    modes = []
    model = Answers(lambda x: (modes.append(model.training), x.new_zeros(2, 3))[1])
    model.norm.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_output(model, (1, 4, 4), 3)
    assert modes == [False]
    assert model.training
    assert model.norm.training
    assert [p.requires_grad for p in model.parameters()] == [False, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_block_adds_its_residual_to_the_shortcut_of_the_first_activation():
    torch.manual_seed(0)
    model = build("wrn-10-2", (3, 8, 8), 5, (0.5,) * 3, (0.25,) * 3).eval()
    block = next(module for module in model if hasattr(module, "shortcut"))
    x = torch.randn(2, 16, 8, 8)
    active = block.bn1(x).relu()
    residual = block.conv2(block.bn2(block.conv1(active)).relu())
    torch.testing.assert_close(block(x), residual + block.shortcut(active))
    same = type(block)(16, 16, 1).eval()
    torch.testing.assert_close(same(x) - x, same.conv2(same.bn2(same.conv1(same.bn1(x).relu())).relu()))
