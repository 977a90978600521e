"""Any model a user brings, made uniform; and memory that ends."""

import math

import pytest
import torch
from torch import Tensor, nn

from sparring.core.gradient import value_and_gradient
from sparring.evaluation.subject import Uniform, in_memory, out_of_memory, subject


def inputs(n: int = 40, d: int = 12) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(n, d, generator=rng), torch.arange(n) % 2


def logistic(d: int = 12, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(d, 1)
    model.weight.data *= scale
    return model


@pytest.mark.parametrize("squeeze", [False, True])
def test_a_single_logit_is_the_log_odds_of_class_one(squeeze: bool) -> None:
    inner = logistic()
    model = nn.Sequential(inner, nn.Flatten(0)) if squeeze else inner
    x, y = inputs()
    made = subject(model, (x, y))
    assert made.classes == 2
    odds = inner(x).squeeze(1)
    torch.testing.assert_close(made.logits.softmax(1)[:, 1], odds.sigmoid())
    assert torch.equal(made.clean_right, (odds > 0).long() == y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_in_any_dtype_answers_and_has_the_gradient_of_its_float32_twin(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))
    x, y = inputs()
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)
    model.load_state_dict({name: value.to(dtype) for name, value in twin.state_dict().items()})
    made = subject(model, (x, y))
    rows = torch.arange(len(y))
    _, gradient = value_and_gradient(made.gain(rows), x)
    _, expected = value_and_gradient(subject(twin, (x, y)).gain(rows), x)
    assert made.logits.dtype == torch.promote_types(dtype, torch.float32)
    assert gradient.dtype == torch.float32
    agree = (gradient.sign() == expected.sign()).double().mean().item()
    assert agree > 0.97


def test_a_float16_gradient_that_would_underflow_arrives() -> None:
    """Each of three layers shrinks the gradient 300-fold: what reaches the input is below float16's smallest number."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4, bias=False) for _ in range(3)]
    for layer in layers:
        layer.weight.data = 0.003 * torch.eye(4)
    half = nn.Sequential(*layers, nn.Linear(4, 2)).half()
    x, y = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.long)
    gain = subject(half, (x, y)).gain(torch.arange(6))
    _, gradient = value_and_gradient(gain, x)
    plain = x.half().requires_grad_(True)
    (lost,) = torch.autograd.grad((half(plain)[:, 1] - half(plain)[:, 0]).sum(), plain)
    assert (lost == 0).all()
    weight = half[3].weight.float()
    torch.testing.assert_close(gradient, (0.003**3 * (weight[1] - weight[0])).expand(6, 4), rtol=0.02, atol=1e-10)


def test_a_model_that_no_gradient_passes_gets_a_zero_gradient_and_says_so() -> None:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.one_hot((x.sum(1) > 6).long(), 2).float()

    x, y = inputs()
    made = subject(Rounded(), (x, y))
    assert not made.differentiable
    assert isinstance(made.model, Uniform)
    _, gradient = value_and_gradient(made.gain(torch.arange(len(y))), x)
    assert (gradient == 0).all()


def test_an_abstention_is_wrong_when_clean_and_no_success_for_the_adversary() -> None:
    x = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.2, 0.9], [0.9, 0.1, 0.0]])
    y = torch.tensor([0, 0, 0, 1])
    made = subject(nn.Identity(), (x, y), abstain=2)
    assert made.classes == 2
    assert made.clean_right.tolist() == [True, False, False, False]
    stands = made.standing(x, torch.arange(4))
    assert stands.tolist() == [True, False, True, False]
    ahead = made.gain(torch.arange(4)).rivals(x)
    torch.testing.assert_close(ahead.amax(1), torch.tensor([-0.8, 0.8, -0.7, 0.8]))
    assert (ahead[:, 2] == -math.inf).all()


@pytest.mark.parametrize("abstain", [-1, 3, 0])
def test_an_abstention_that_is_no_spare_output_is_refused(abstain: int) -> None:
    with pytest.raises(ValueError, match="'abstain' parameter must be the index of an output"):
        subject(nn.Identity(), (torch.rand(4, 3), torch.tensor([0, 0, 1, 1])), abstain=abstain)


def test_unbounded_inputs_are_refused_with_the_cure() -> None:
    x, y = inputs()
    with pytest.raises(ValueError, match="Put normalisation inside the model"):
        subject(nn.Linear(12, 2), ((x - 0.5) / 0.2, y))


def test_labels_that_are_no_classes_are_refused() -> None:
    x, y = inputs()
    with pytest.raises(ValueError, match="of class indices"):
        subject(nn.Linear(12, 2), (x, y.float()))
    with pytest.raises(ValueError, match=r"'batch_size' parameter must be an int in the range \[1, inf\)"):
        subject(nn.Linear(12, 2), (x, y), batch_size=0)


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_where_memory_ends_the_batch_is_halved_and_the_answer_is_the_same(limit: int) -> None:
    said: list[str] = []

    def greedy(batch: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if len(batch) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return batch * 2, rows

    x = torch.rand(13, 2)
    doubled, rows = in_memory(greedy, x, say=said.append)
    assert torch.equal(doubled, 2 * x)
    assert torch.equal(rows, torch.arange(13))
    assert "memory is too small for 13 examples at a time: going on with 6" in said


def test_a_single_example_that_does_not_fit_and_any_other_error_is_raised() -> None:
    def never(batch: Tensor, rows: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    def broken(batch: Tensor, rows: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="can't allocate"):
        in_memory(never, torch.rand(4, 2), say=lambda _: None)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        in_memory(broken, torch.rand(4, 2), say=pytest.fail)
    assert not out_of_memory(RuntimeError("mat1 and mat2"))
