"""The benchmark for machines with a GPU runs: all of it at toy sizes, on the machine at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def run(*options: str) -> subprocess.CompletedProcess:
    """The script in a process of its own, with this checkout's package."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *options]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT
    )


def test_all_parts_run_at_toy_sizes():
    """The peers that are not installed are left out, as the tables say."""
    done = run("--smoke")
    assert done.returncode == 0, done.stderr
    assert "all parts ran" in done.stdout
    assert "fraction_of_peak" in done.stdout
    assert "'steps': 2, 'seconds'" in done.stdout, "the time to a threshold"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is missing")
def test_without_cuda_it_says_what_is_missing():
    done = run()
    assert done.returncode == 1
    assert "no CUDA here" in done.stderr and "--smoke" in done.stderr
