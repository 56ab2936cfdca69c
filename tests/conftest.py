"""Tests run on the CPU, those marked gpu on a GPU too; property tests say so in the JUnit file; a common fixture."""

import os

import pytest
import torch
from hypothesis import settings


def pytest_configure(config):
    """Hide GPUs, unless `-m gpu` asks for the tests that also run on one: numbers of the others are a CPU's."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="module")
def one_thread():
    """Small networks wait for each other on more threads, and one gives equal numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


settings.register_profile("cmf", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("cmf")


def pytest_collection_modifyitems(items):
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.user_properties.append(("kind", "property"))
