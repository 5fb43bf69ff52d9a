"""Training in several processes, and in processes that are killed."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save

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

STEPS, KILLS, LIFE, PAUSE = 600, 10, 0.8, 0.015  # seconds
# However fast the machine, ten lives are too short for the run.
assert KILLS * LIFE < STEPS * PAUSE


def run(folder: str, pause: float = PAUSE) -> None:
    """Train, continuing from what is in the folder; steps and writing take ``pause`` at least."""

    def save_file(tensors, path, metadata):
        content = save(tensors, metadata)
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            time.sleep(pause)
            file.write(content[len(content) // 2 :])

    torch.set_num_threads(1)
    torch.manual_seed(3)
    net = MLP(2, hidden=16, depth=2)
    net.register_forward_hook(lambda *_: time.sleep(pause))
    data = torch.randn(50, 2, generator=torch.Generator().manual_seed(9)) + 1.0
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    with mock.patch.object(training, "save_file", save_file):
        train(net, target, data, steps=STEPS, batch_size=16, progress=False,
              checkpoint_dir=folder, checkpoint_every=2, resume=True)  # fmt: skip


def _written(path: Path) -> int:
    """When the file was written, or 0; each writing makes another."""
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_run_killed_ten_times_ends_with_the_weights_of_one_that_was_not(tmp_path):
    """SIGKILL at random moments: in a step, in writing a checkpoint, in reading one."""
    context = multiprocessing.get_context("forkserver")  # its children need not import torch anew
    context.set_forkserver_preload(["torch", "accelerate", __name__])
    chance = random.Random(0)
    interrupted = tmp_path / "interrupted"
    checkpoint = interrupted / training.CHECKPOINT
    done = [0]
    for life in range(KILLS):
        before = _written(checkpoint)
        process = context.Process(target=run, args=(str(interrupted),))
        process.start()
        # every second one is killed while it trains, the others already while they begin
        deadline = time.monotonic() + 120
        while life % 2 == 0 and _written(checkpoint) == before:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.002)
        process.join(chance.uniform(0.0, LIFE))
        assert process.exitcode is None, "the run was over, or failed, before it was killed"
        process.kill()
        process.join()
        tensors, _ = training.read_tensors(checkpoint)
        done.append(len(tensors["losses"]))
    assert done == sorted(done), "a life began before the end of the last one"
    assert all(done[k] < done[k + 1] for k in range(0, KILLS, 2)), "a life did not get further"
    process = context.Process(target=run, args=(str(interrupted),))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    run(str(tmp_path / "whole"), pause=0.0)
    first, _ = training.read_tensors(checkpoint)
    second, _ = training.read_tensors(tmp_path / "whole" / training.CHECKPOINT)
    assert first.keys() == second.keys() and len(first["losses"]) == STEPS
    assert all(torch.equal(first[name], second[name]) for name in first)


# A full disk -------------------------------------------------------------------------------------

FULL = """
import os, pathlib, resource, sys, torch
from fromnoise import training
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT
from fromnoise.targets import ConditionalFlowMatching

kind, folder, other = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
checkpoint, filler = folder / training.CHECKPOINT, folder / "filler"
torch.set_num_threads(1)
data = torch.randn(50, 2, generator=torch.Generator().manual_seed(9)) + 1.0
NO = resource.RLIM_INFINITY

def fill():
    if kind == "limit":  # a file may have half of what a checkpoint needs
        resource.setrlimit(resource.RLIMIT_FSIZE, (checkpoint.stat().st_size // 2, NO))
        return
    room = os.statvfs(folder)
    room = room.f_bavail * room.f_frsize - checkpoint.stat().st_size // 2
    filler.write_bytes(bytes(room))

def free():
    resource.setrlimit(resource.RLIMIT_FSIZE, (NO, NO))
    filler.unlink(missing_ok=True)

def run(folder, full_at=None):
    torch.manual_seed(3)
    net, calls = MLP(2, hidden=64, depth=2), []
    def forward(*_):
        calls.append(1)
        if len(calls) == full_at:
            fill()
    net.register_forward_hook(forward)
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    return training.train(net, target, data, steps=20, batch_size=16, progress=False, resume=True,
                          checkpoint_dir=folder, checkpoint_every=5)

try:
    run(folder, full_at=12)
except training.CheckpointError as error:
    message, cause = str(error), error.__cause__
else:
    sys.exit("no error: the disk was not full")
left = {path.name for path in folder.iterdir()} - {filler.name}
tensors, _ = training.read_tensors(checkpoint)
assert len(tensors["losses"]) == 10, len(tensors["losses"])
assert left == {checkpoint.name}, left
try:
    run(folder)  # nothing was freed: fails again, and still has what it had
except training.CheckpointError:
    assert len(training.read_tensors(checkpoint)[0]["losses"]) == 10
else:
    sys.exit("no error at the second attempt")
free()
resumed, whole = run(folder), run(other)
assert resumed.losses == whole.losses and len(whole.losses) == 20
states = resumed.net.state_dict(), whole.net.state_dict()
assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
first, second = (training.read_tensors(f / training.CHECKPOINT)[0] for f in (folder, other))
assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
print(message)
"""
MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
SMALL_DISK = 'mount -t tmpfs -o size=2m tmpfs "$0"'


@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_on_a_full_disk_training_says_so_and_resumes_to_the_same_weights(tmp_path, kind):
    """A checkpoint meets a limit on the size of files, or a disk of 2 MB that is full.

    The first is everywhere (`setrlimit`), the second where a process may mount a disk of its own.
    """
    pytest.importorskip("resource", reason="needs the limits of POSIX")
    folder, other, script = tmp_path / "run", tmp_path / "other", tmp_path / "script.py"
    folder.mkdir()
    script.write_text(FULL)
    command = [sys.executable, str(script), kind, str(folder), str(other)]
    if kind == "disk":
        try:
            subprocess.run([*MOUNT, SMALL_DISK, str(folder)], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted here ({error})")
        command = [*MOUNT, f'{SMALL_DISK} && exec "$@"', str(folder), *command]
    environment = {**os.environ, "PYTHONPATH": str(Path(training.__file__).parents[1])}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    cause = {"limit": "File too large", "disk": "No space left on device"}[kind]
    path = folder / training.CHECKPOINT
    assert done.stdout.startswith(f"{path} could not be written (") and cause in done.stdout
    assert "free 0.5" in done.stdout and "MB on its disk" in done.stdout
    assert "the checkpoint from before is whole" in done.stdout
    assert "resume=True" in done.stdout
