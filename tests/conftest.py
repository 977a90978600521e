"""What every test relies on: one torch thread, seeded generators, hypothesis without chance, warnings as errors."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "sparring",
    derandomize=True,  # the same examples in every run: a red test is a red test
    deadline=None,  # a shared machine is slow at times
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sparring")


def pytest_configure(config: pytest.Config) -> None:
    if "error" not in config.getini("filterwarnings"):
        raise pytest.UsageError("The tests need filterwarnings = ['error'] of pyproject.toml: run them from its root.")


@pytest.fixture(scope="session")
def seeded() -> Callable[..., torch.Generator]:
    """`seeded(seed)`: a fresh generator, on the CPU unless a device is named."""

    def make(seed: int = 0, device: str = "cpu") -> torch.Generator:
        return torch.Generator(device).manual_seed(seed)

    return make


@pytest.fixture
def rng(seeded: Callable[..., torch.Generator]) -> torch.Generator:
    """A generator that starts each test from seed 0."""
    return seeded(0)
