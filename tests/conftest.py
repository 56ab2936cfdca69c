"""Every property test says so in the JUnit file, for tests/counts.py; a fixture that several files use."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Small networks wait for each other on more threads, and one gives equal numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.user_properties.append(("kind", "property"))
