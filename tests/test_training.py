"""The training loop: resuming is bit for bit, and every broken checkpoint is refused by name."""

import json
import math
import signal
import sys
from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fromnoise import training
from fromnoise.distributions import Checkerboard, laboratory
from fromnoise.labels import Labelled
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT, Cosine
from fromnoise.targets import ConditionalFlowMatching
from fromnoise.training import CheckpointError, Diverged, Settings, Stopped, train

TARGET = ConditionalFlowMatching(GaussianPath(CondOT()))
POINTS = torch.randn(50, 2, generator=torch.Generator().manual_seed(9)) + 1.0
QUICK = {"steps": 12, "batch_size": 16, "progress": False, "warmup": 3}


class Dropping(nn.Module):
    """A network whose training uses the global random generator, and that has a buffer."""

    def __init__(self):
        super().__init__()
        self.net = MLP(2, hidden=8, depth=1)
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x, t):
        if self.training:
            self.seen += len(x)
        return self.dropout(self.net(x, t))


def fresh(build=lambda: MLP(2, hidden=8, depth=1)):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build()


@dataclass(frozen=True)
class Interrupting:
    """A target that presses Ctrl-C in the middle of a step."""

    at: int
    calls: list

    def loss(self, net, data, generator=None):
        self.calls.append(len(self.calls))
        if len(self.calls) == self.at:
            signal.raise_signal(signal.SIGINT)
        return TARGET.loss(net, data, generator)


def same(a, b):
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][k], states[1][k]) for k in states[0]
    )


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A checkpoint in ``tmp_path`` after 5 of the 12 steps of ``QUICK`` on ``POINTS``."""
    stop_after(monkeypatch, 5, fresh(), POINTS, tmp_path)
    return tmp_path / training.CHECKPOINT


def stop_after(monkeypatch, steps, net, data, folder, **options):
    """Train and press Ctrl-C in step number ``steps``."""
    calls = []

    def loss(self, net, batch, generator=None):
        calls.append(1)
        if len(calls) == steps:
            signal.raise_signal(signal.SIGINT)
        return original(self, net, batch, generator)

    original = ConditionalFlowMatching.loss
    with monkeypatch.context() as patch:
        patch.setattr(ConditionalFlowMatching, "loss", loss)
        with pytest.raises(Stopped, match=rf"stopped after step {steps} of .*resume=True"):
            train(net, TARGET, data, **{**QUICK, **options}, checkpoint_dir=folder)


# Resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda: MLP(2, hidden=8, depth=1), Dropping])
@pytest.mark.parametrize("data", [POINTS, Checkerboard()], ids=["tensor", "law"])
@pytest.mark.parametrize("cut", [1, 7])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, monkeypatch, build, data, cut):
    whole = fresh(build)
    expected = train(whole, TARGET, data, **QUICK)
    stop_after(monkeypatch, cut, fresh(build), data, tmp_path)
    torch.manual_seed(12345)  # another state of the global generator must not matter
    # The weights that the resumed network starts from must not matter either.
    continued = build()
    found = train(continued, TARGET, data, **QUICK, checkpoint_dir=tmp_path, resume=True)
    assert found.losses == expected.losses and len(found.losses) == 12
    assert same(found.net, expected.net)
    assert same(continued, whole)


def test_resuming_a_finished_run_changes_nothing(tmp_path, monkeypatch):
    expected = train(fresh(), TARGET, POINTS, **QUICK)
    stop_after(monkeypatch, 4, fresh(), POINTS, tmp_path)
    found = train(fresh(), TARGET, POINTS, **QUICK, checkpoint_dir=tmp_path, resume=True)
    again = train(fresh(), TARGET, POINTS, **QUICK, checkpoint_dir=tmp_path, resume=True)
    assert same(found.net, expected.net) and same(again.net, expected.net)
    assert again.losses == expected.losses


def test_periodic_checkpoints_are_written(tmp_path):
    path = tmp_path / training.CHECKPOINT
    steps = []

    class Watching:
        def loss(self, net, data, generator=None):
            if path.exists():
                with safe_open(path, "pt") as file:
                    steps.append(len(file.get_tensor("losses")))
            return TARGET.loss(net, data, generator)

    train(fresh(), Watching(), POINTS, **QUICK, checkpoint_dir=tmp_path, checkpoint_every=5)
    assert sorted(set(steps)) == [5, 10]
    assert [p.name for p in tmp_path.iterdir()] == [training.CHECKPOINT]  # no temporary files


def test_resume_without_a_checkpoint_starts(tmp_path):
    found = train(fresh(), TARGET, POINTS, **QUICK, checkpoint_dir=tmp_path, resume=True)
    assert same(found.net, train(fresh(), TARGET, POINTS, **QUICK).net)


def test_ctrl_c_without_a_folder_says_that_nothing_was_saved():
    before = signal.getsignal(signal.SIGINT)  # a shell starts what runs behind it deaf to Ctrl-C
    target = Interrupting(at=2, calls=[])
    with pytest.raises(Stopped, match="stopped after step 2 of 12; nothing was saved"):
        train(fresh(), target, POINTS, **QUICK)
    assert signal.getsignal(signal.SIGINT) is before


# Checkpoints that must not be used ---------------------------------------------------------------


def resume(folder, **changes):
    net = changes.pop("net", None) or fresh()
    data = changes.pop("data", POINTS)
    target = changes.pop("target", TARGET)
    return train(net, target, data, **{**QUICK, **changes}, checkpoint_dir=folder, resume=True)


def test_an_existing_checkpoint_is_not_overwritten(stopped):
    before = stopped.read_bytes()
    with pytest.raises(CheckpointError, match="holds a checkpoint already: pass resume=True"):
        train(fresh(), TARGET, POINTS, **QUICK, checkpoint_dir=stopped.parent)
    assert stopped.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"lr": 0.1}, "settings.lr is 0.001 in the checkpoint and 0.1 here"),
        ({"steps": 20}, "settings.steps is 12 in the checkpoint and 20 here"),
        ({"seed": 1}, "settings.seed is 0 in the checkpoint and 1 here"),
        ({"net": MLP(2, hidden=16)}, "network is 'MLP"),
        ({"data": POINTS + 1}, r"data is 'tensor \(50, 2\)"),
        (
            {"target": ConditionalFlowMatching(GaussianPath(Cosine()))},
            r"schedule=CondOT\(\).*schedule=Cosine\(\)",
        ),
    ],
)
def test_another_configuration_is_refused_with_the_difference(stopped, changes, difference):
    with pytest.raises(CheckpointError, match=f"is of another run: .*{difference}"):
        resume(stopped.parent, **changes)


def test_a_checkpoint_from_before_a_setting_had_its_default(stopped):
    tensors, header = training.read_tensors(stopped)
    run = json.loads(header["run"])
    del run["settings"]["parts"], run["precision"]
    save_file(tensors, stopped, metadata=header | {"run": json.dumps(run)})
    with pytest.raises(CheckpointError, match=r"settings\.parts is 1 in the checkpoint and 2 here"):
        resume(stopped.parent, parts=2)
    assert len(resume(stopped.parent).losses) == QUICK["steps"]


@pytest.mark.parametrize("keep", [0, 4, 100, -1], ids=lambda k: f"first {k} bytes")
def test_a_truncated_checkpoint_is_refused(stopped, keep):
    stopped.write_bytes(stopped.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors"):
        resume(stopped.parent)


def test_a_flipped_bit_is_noticed(stopped):
    content = bytearray(stopped.read_bytes())
    content[-40] ^= 1
    stopped.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"is damaged: SHA-256 of its tensors"):
        resume(stopped.parent)


def test_a_pickle_is_refused(stopped):
    torch.save({"net": fresh().state_dict()}, stopped)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        resume(stopped.parent)


def test_a_failed_write_leaves_the_old_checkpoint(stopped, monkeypatch):
    before = stopped.read_bytes()

    def broken(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(training, "save_file", broken)
    message = rf"{training.CHECKPOINT} could not be written \(No space left.*: free .* MB .* resume"
    with pytest.raises(CheckpointError, match=message):
        resume(stopped.parent)
    assert stopped.read_bytes() == before
    assert list(stopped.parent.iterdir()) == [stopped]


# Learning ----------------------------------------------------------------------------------------


def test_training_learns():
    law = laboratory(dtype=torch.float32)
    net = fresh(lambda: MLP(2, hidden=32, depth=2))
    trained = train(net, TARGET, law, steps=200, batch_size=128, lr=3e-3, progress=False)
    # The part of the loss that no network can remove is the larger one.
    assert sum(trained.losses[-50:]) < 0.9 * sum(trained.losses[:50])
    assert not trained.net.training


def test_parts_accumulate_the_gradient_of_the_batch():
    """A batch in four parts is one batch whose rows have the noise of their parts.

    The gradients are sums in another order: 12 steps of Adam at 1e-3 from equal weights differ by
    rounding, amplified where a gradient is near 0 (Adam divides by its size); 1e-4 is 12 steps of
    1 % of the learning rate each.
    """

    @dataclass(frozen=True)
    class Whole:
        """Draws what the parts draw, and takes the loss of all at once."""

        steps: list

        def loss(self, net, data, generator=None):
            step, total = len(self.steps), 0.0
            self.steps.append(1)
            for part in range(4):
                generator.manual_seed(training._seed_of(0, step, part))
                total = total + TARGET.loss(net, data[4 * part : 4 * part + 4], generator) / 4
            return total

    split = train(fresh(), TARGET, POINTS, **QUICK, parts=4)
    whole = train(fresh(), Whole([]), POINTS, **QUICK)
    assert split.losses == pytest.approx(whole.losses, rel=1e-5)
    for a, b in zip(split.net.parameters(), whole.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("build", [lambda: MLP(2, hidden=8, depth=1), Dropping])
def test_parts_resume_bit_for_bit(tmp_path, monkeypatch, build):
    """Stopped in the middle of a step of two parts: the step is completed, then it stops."""
    whole = train(fresh(build), TARGET, POINTS, **QUICK, parts=2).net
    calls = []

    def loss(self, net, batch, generator=None):
        calls.append(1)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGINT)
        return original(self, net, batch, generator)

    original = ConditionalFlowMatching.loss
    with monkeypatch.context() as patch:
        patch.setattr(ConditionalFlowMatching, "loss", loss)
        with pytest.raises(Stopped, match="stopped after step 5 of 12"):
            train(fresh(build), TARGET, POINTS, **QUICK, parts=2, checkpoint_dir=tmp_path)
    resumed = train(
        fresh(build), TARGET, POINTS, **QUICK, parts=2, checkpoint_dir=tmp_path, resume=True
    )
    assert same(whole, resumed.net)


def test_bfloat16_trains_float32_weights_to_the_same_loss():
    """bfloat16 has 8 bits of mantissa: a loss of the order 1 agrees to a few 2^-8."""
    options = {"steps": 100, "batch_size": 64, "lr": 3e-3, "progress": False}
    law = laboratory(dtype=torch.float32)
    full, half = (
        train(fresh(lambda: MLP(2, hidden=32, depth=2)), TARGET, law, **options, precision=p)
        for p in ("no", "bf16")
    )
    assert half.record["precision"] == "bf16"
    assert next(half.net.parameters()).dtype == torch.float32
    assert half.losses != full.losses
    late = [sum(run.losses[-50:]) / 50 for run in (full, half)]
    assert late[1] == pytest.approx(late[0], rel=5 * 2**-8)


def test_log_for_tensorboard(tmp_path):
    """What was logged is read back by TensorBoard itself."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = train(fresh(), TARGET, POINTS, **QUICK, log_dir=tmp_path / "log")
    events = accumulator.EventAccumulator(str(tmp_path / "log")).Reload()
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx(trained.losses, rel=1e-6)
    assert events.Scalars("learning_rate")[1].step == 1
    assert min(event.value for event in events.Scalars("gradient_norm")) > 0


def test_log_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"log_dir is .* pip install tensorboard"):
        train(fresh(), TARGET, POINTS, **QUICK, log_dir=tmp_path)


def test_same_seed_same_weights_other_seed_other_weights():
    first, second = (train(fresh(), TARGET, POINTS, **QUICK, seed=4).net for _ in range(2))
    assert same(first, second)
    assert not same(first, train(fresh(), TARGET, POINTS, **QUICK, seed=5).net)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    train(fresh(), TARGET, POINTS, **QUICK)
    assert torch.equal(torch.get_rng_state(), before)


def test_float64_networks_train_in_float64():
    trained = train(fresh().double(), TARGET, POINTS, **QUICK)
    assert next(trained.net.parameters()).dtype == torch.float64


def test_the_record_says_how_it_was_made():
    record = train(fresh(), TARGET, POINTS, **QUICK, seed=7).record
    assert record["seed"] == 7 and record["steps"] == 12
    assert record["settings"]["batch_size"] == 16 and record["settings"]["lr"] == 1e-3
    assert record["device"].startswith("cpu") and record["wall_seconds"] >= 0
    assert record["parameters"] == sum(p.numel() for p in fresh().parameters())
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["loss_curve"]["loss"]) == 12
    assert "CondOT" in record["target"] and "tensor (50, 2)" in record["data"]


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (4, 10), (5, 5)])
def test_every_epoch_visits_every_datum_once(n, batch):
    data = torch.arange(n)
    steps = 3 * n  # a whole number of epochs: 3 n batches are 3 * batch epochs
    seen = torch.cat([training._batch(data, batch, s, 0, torch.Generator()) for s in range(steps)])
    epochs = seen.reshape(-1, n)
    assert torch.equal(epochs.sort(dim=1).values, data.expand_as(epochs))
    assert len({tuple(e.tolist()) for e in epochs}) > 1  # in changing orders


def test_learning_rate_rises_then_falls():
    settings = Settings(steps=110, lr=2.0, warmup=10)
    rates = [training.learning_rate_at(s, settings) for s in range(110)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert 0 < rates[-1] < 0.001
    assert training.learning_rate_at(99, Settings(steps=100, lr=2.0, decay=False)) == 2.0


def test_ema_is_its_formula():
    net, average = nn.Linear(2, 1), nn.Linear(2, 1)
    expected = average.weight.detach().clone()
    for step in range(5):
        decay = training.ema_decay_at(step, 0.3)
        assert decay == min(0.3, (1 + step) / (10 + step))
        with torch.no_grad():
            net.weight += 1.0
        training.update_ema(list(average.parameters()), list(net.parameters()), decay)
        expected = decay * expected + (1 - decay) * net.weight.detach()
        assert torch.allclose(average.weight, expected, atol=1e-6)
    assert training.ema_decay_at(10**6, 0.999) == 0.999


def test_buffers_are_copied_into_the_average():
    trained = train(fresh(Dropping), TARGET, POINTS, **QUICK)
    assert trained.net.seen.item() == 12 * 16


def test_loss_curve_averages_equal_stretches():
    curve = training.loss_curve([1.0, 3.0, 5.0, 7.0, 9.0], points=3)
    assert curve == {"step": [0.5, 2.5, 4.0], "loss": [2.0, 6.0, 9.0]}


# Mistakes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exploding:
    """A target whose loss, or its gradient alone, is infinite from the ninth call on."""

    gradient_only: bool
    calls: list

    def loss(self, net, data, generator=None):
        loss = TARGET.loss(net, data, generator)
        self.calls.append(1)
        if len(self.calls) < 9:
            return loss
        # sqrt has the value 0 and an infinite derivative where the loss minus itself is 0
        return loss + (loss - loss.detach()).sqrt() if self.gradient_only else loss * math.inf


@pytest.mark.parametrize(
    ("gradient_only", "clip", "said"),
    [
        (False, 1.0, "the loss is inf at step 8: lower lr"),
        (True, 1.0, "the norm of the gradient is (nan|inf) at step 8: lower lr"),
        (True, None, "the norm of the gradient is (nan|inf) at step 8: lower lr"),
    ],
)
def test_what_is_not_finite_stops_and_the_weights_before_it_are_kept(
    tmp_path, gradient_only, clip, said
):
    target = Exploding(gradient_only, [])
    with pytest.raises(Diverged, match=said) as caught:
        options = {**QUICK, "clip": clip, "decay": False}
        train(fresh(), target, POINTS, **options, checkpoint_dir=tmp_path, checkpoint_every=4)
    good = train(fresh(), TARGET, POINTS, **{**options, "steps": 8}).net
    assert same(caught.value.net, good)
    # so does the checkpoint of step 8, from which the run would go on
    tensors, _ = training.read_tensors(tmp_path / training.CHECKPOINT)
    assert len(tensors["losses"]) == 8
    kept = {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
    assert all(torch.equal(kept[k], v) for k, v in good.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"parts": 0}, "parts is 0"),
        ({"parts": 3}, "parts is 3: it must divide batch_size=16"),
        ({"warmup": 13}, r"warmup is 13: it must lie in \[0, steps=12\]"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        train(fresh(), TARGET, POINTS, **{**QUICK, **changes})


def test_no_data():
    with pytest.raises(ValueError, match="data is empty"):
        train(fresh(), TARGET, POINTS[:0], **QUICK)


def test_data_are_held_on_the_device_if_they_fill_half_of_what_is_free():
    x, labels = torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64)  # 160 bytes
    meta = torch.device("meta")  # any device that is not the CPU
    for data in (x, Labelled(x, labels)):
        assert training.held(data, meta, 320).device == meta
        assert training.held(data, meta, 319) is data
    law = laboratory()
    assert training.held(law, meta, 10**9) is law
