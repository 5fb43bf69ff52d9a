"""The command line, as a user meets it."""

import dataclasses
import re
import signal

import matplotlib.image
import pytest
import torch
from typer.testing import CliRunner

from fromnoise import checkpoints, interchange, recipes
from fromnoise.cli import app
from fromnoise.labels import Labelled
from fromnoise.recipes import checkerboard_flow
from fromnoise.targets import ConditionalFlowMatching

TINY = {"steps": 4, "batch_size": 8, "warmup": 1}


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def quick(monkeypatch):
    """The checkerboard recipe with a budget of four steps."""
    recipe = dataclasses.replace(checkerboard_flow.RECIPE, budgets={"cpu": TINY, "gpu": TINY})
    monkeypatch.setitem(recipes._RECIPES, "checkerboard-flow", recipe)


@pytest.fixture
def images(tmp_path):
    """Weights of a tiny image model."""
    recipe = dataclasses.replace(
        recipes.get("digits-flow"),
        data=lambda: (torch.zeros(8, 1, 28, 28), "black"),
        options={"widths": (8, 8), "embedding": 8},
        budgets={"cpu": TINY},
    )
    out = tmp_path / "images.safetensors"
    recipe.train(out=out, progress=False)
    return out


def test_recipes_are_listed():
    result = run("recipes")
    assert result.exit_code == 0
    for name in recipes.names():
        assert name in result.output
    assert "budget cpu" in result.output and "parameters" in result.output


def test_train_sample_info(quick, tmp_path):
    weights, picture = tmp_path / "w.safetensors", tmp_path / "points.png"
    result = run("train", "checkerboard-flow", "--budget", "cpu", "--out", weights, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert f"wrote {weights}: 4 steps" in result.output
    result = run("sample", weights, "--steps", 3, "--solver", "rk4", "--out", picture, "--n", 50)
    assert result.exit_code == 0, result.output
    assert matplotlib.image.imread(picture).shape[:2] == (900, 900)
    result = run("info", weights)
    assert result.exit_code == 0, result.output
    for part in ("recipe: checkerboard-flow", "seed: 5", "registered: no", "sha256: ", "loss: "):
        assert part in result.output


def test_train_twice_and_resume(quick, tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
        result = run("train", "checkerboard-flow", "--out", weights)
        assert result.exit_code == 1 and "error: disk full" in result.output
    result = run("train", "checkerboard-flow", "--out", weights)
    assert result.exit_code == 1 and "holds a checkpoint already" in result.output
    result = run("train", "checkerboard-flow", "--out", weights, "--resume")
    assert result.exit_code == 0 and weights.is_file()


def test_ctrl_c_saves_and_says_how_to_go_on(quick, tmp_path, monkeypatch):
    def pressing(self, net, data, generator=None):
        signal.raise_signal(signal.SIGINT)
        return loss(self, net, data, generator)

    loss = ConditionalFlowMatching.loss
    weights = tmp_path / "w.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(ConditionalFlowMatching, "loss", pressing)
        result = run("train", "checkerboard-flow", "--out", weights)
    assert result.exit_code == 130
    assert "stopped after step 1 of 4; saved to" in result.output and "--resume" in result.output
    assert run("train", "checkerboard-flow", "--out", weights, "--resume").exit_code == 0


def test_a_grid_of_images(images, tmp_path):
    picture = tmp_path / "grid.png"
    result = run("sample", images, "--n", 7, "--steps", 2, "--solver", "euler", "--out", picture)
    assert result.exit_code == 0, result.output
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (3 * 30, 3 * 30)  # 7 images in 3 columns, each with its margin
    again = tmp_path / "again.png"
    run("sample", images, "--n", 7, "--steps", 2, "--solver", "euler", "--out", again)
    assert picture.read_bytes() == again.read_bytes()
    run("sample", images, "--n", 7, "--steps", 2, "--solver", "euler", "--out", again, "--seed", 1)
    assert picture.read_bytes() != again.read_bytes()


@pytest.mark.parametrize("name", sorted(checkpoints.registry()))
def test_info_of_landed_weights(name):
    result = run("info", name)
    assert result.exit_code == 0, result.output
    assert f"registered: yes, as {name}; hash ok" in result.output
    assert re.search(r"parameters: \d+", result.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nix"), "error: no recipe is called 'nix': there are checkerboard-flow"),
        (("sample", "nix"), "error: no checkpoint is called 'nix'"),
        (("info", "nix.safetensors"), "error: nix.safetensors does not exist"),
        (("publish", "nix.safetensors"), "error: nix.safetensors does not exist"),
    ],
)
def test_mistakes_are_one_plain_line(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


def test_unknown_options_are_refused():
    assert run("sample", "digits-flow", "--solver", "leapfrog").exit_code == 2
    assert run("train", "digits-flow", "--budget", "tpu").exit_code == 2


def test_sampling_by_label(tmp_path):
    recipe = dataclasses.replace(
        recipes.get("digits-conditional-weak"),
        data=lambda: (Labelled(torch.zeros(8, 1, 28, 28), torch.arange(8)), "black"),
        options={"widths": (8, 8), "embedding": 8, "classes": 10},
        budgets={"cpu": TINY},
    )
    weights, picture = tmp_path / "labelled.safetensors", tmp_path / "grid.png"
    recipe.train(out=weights, progress=False)
    arguments = ("sample", weights, "--steps", 2, "--n", 5, "--out", picture)
    result = run(*arguments, "--labels", "3,1", "--guidance", 2)
    assert result.exit_code == 0, result.output
    assert "labels 3,1, guidance 2" in result.output and picture.is_file()
    for labels, message in (("3,x", "write whole numbers"), ("11", "knows 0 to 9")):
        result = run(*arguments, "--labels", labels)
        assert result.exit_code == 1 and message in result.output


def test_export(images, tmp_path):
    """A pipeline folder of Diffusers, from which the weights come back; never overwritten."""
    folder = tmp_path / "pipeline"
    result = run("export", images, "--out", folder)
    assert result.exit_code == 0, result.output
    assert f"wrote {folder}" in result.output and "trust_remote_code=True" in result.output
    before = checkpoints.read(images).net.state_dict()
    after = interchange.import_pipeline(folder).net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    result = run("export", images, "--out", folder)
    assert (
        result.exit_code == 1 and "error: " in result.output and "exists already" in result.output
    )
