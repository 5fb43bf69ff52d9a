"""Shared set-up: one thread a process, and the same examples in every run of a property test."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("book", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("book")


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed, so that a stochastic check has one outcome."""
    return torch.Generator().manual_seed(20240117)
