"""Training in several processes, and in processes that are killed."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fromnoise import training
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT
from fromnoise.targets import ConditionalFlowMatching
from fromnoise.training import train

SCRIPT = """
import sys, json, torch
from safetensors.torch import save_file
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT
from fromnoise.targets import ConditionalFlowMatching
from fromnoise.training import train

out, parts = sys.argv[1], int(sys.argv[2])
torch.manual_seed(3)
net = MLP(2, hidden=16, depth=2)
data = torch.randn(50, 2, generator=torch.Generator().manual_seed(9)) + 1.0
trained = train(net, ConditionalFlowMatching(GaussianPath(CondOT())), data, steps=30, batch_size=16,
                parts=parts, progress=False, checkpoint_dir=out)
if trained.record["processes"] == 1 or torch.distributed.get_rank() == 0:
    save_file(trained.net.state_dict(), out + "/net.safetensors")
    open(out + "/losses.json", "w").write(json.dumps(trained.losses))
    open(out + "/processes", "w").write(str(trained.record["processes"]))
"""


def launch(folder: Path, processes: int, parts: int):
    """Run the script in so many processes over gloo; return losses and weights, or the error."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    start = [sys.executable]
    if processes > 1:
        # accelerate's own launcher starts several CPU processes through MPI only
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    package = str(Path(training.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "true"  # gloo, also where there is a GPU
    done = subprocess.run(
        [*start, str(script), str(folder), str(parts)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        return done.stderr
    assert int((folder / "processes").read_text()) == processes
    losses = json.loads((folder / "losses.json").read_text())
    return losses, training.read_tensors(folder / "net.safetensors")[0]


def test_two_processes_take_the_steps_of_one(tmp_path):
    """The same global batch in four parts, by one process and by two.

    Gradients are summed in another order. A relative 1e-7 of a gradient moves an Adam step by that
    share, but for coordinates whose gradient is near 0; 30 steps of 1e-3 with 1 % each: 3e-4.
    """
    one, weights_one = launch(tmp_path / "one", 1, 4)
    two, weights_two = launch(tmp_path / "two", 2, 4)
    assert two == pytest.approx(one, rel=1e-5)
    for name, value in weights_one.items():
        torch.testing.assert_close(weights_two[name], value, rtol=0, atol=3e-4)


def test_parts_that_processes_cannot_share_are_refused(tmp_path):
    assert "parts is 1 and there are 2 processes" in launch(tmp_path / "two", 2, 1)


# Killed ------------------------------------------------------------------------------------------

STEPS = 600


def run(folder: str, steps: int = STEPS) -> None:
    """Train, continuing from what is in the folder."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    net = MLP(2, hidden=16, depth=2)
    data = torch.randn(50, 2, generator=torch.Generator().manual_seed(9)) + 1.0
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    train(net, target, data, steps=steps, batch_size=16, progress=False, checkpoint_dir=folder,
          checkpoint_every=10, resume=True)  # fmt: skip


def test_a_run_killed_ten_times_ends_with_the_weights_of_one_that_was_not(tmp_path):
    """SIGKILL at random moments: in a step, in writing a checkpoint, in reading one."""
    context = multiprocessing.get_context("forkserver")  # its children need not import torch anew
    context.set_forkserver_preload(["torch", "accelerate", __name__])
    chance = random.Random(0)
    kills, finished = 0, False
    interrupted = tmp_path / "interrupted"
    while kills < 10 and not finished:
        process = context.Process(target=run, args=(str(interrupted),))
        process.start()
        # the first must have begun; then anything from its first moments to a sixth of the run
        deadline = time.monotonic() + 120
        while kills == 0 and not (interrupted / training.CHECKPOINT).exists():
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        process.join(chance.uniform(0.0, 1.2))
        finished = process.exitcode == 0
        if not finished:
            process.kill()
            process.join()
            kills += 1
    assert kills >= 3, f"the run was over after {kills} kills: take more steps"
    process = context.Process(target=run, args=(str(interrupted),))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    run(str(tmp_path / "whole"))
    first, _ = training.read_tensors(interrupted / training.CHECKPOINT)
    second, _ = training.read_tensors(tmp_path / "whole" / training.CHECKPOINT)
    assert first.keys() == second.keys() and len(first["losses"]) == STEPS
    assert all(torch.equal(first[name], second[name]) for name in first)
    # what a killed writer left behind is not taken for a checkpoint
    assert (interrupted / training.CHECKPOINT).exists()
