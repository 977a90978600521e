"""One museum for all of its tests."""

import pytest
from exhibits import Museum


@pytest.fixture(scope="session")
def museum() -> Museum:
    return Museum()
