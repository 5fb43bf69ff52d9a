"""Recipes: named, frozen, and trained from their name alone."""

import dataclasses
import functools
import json

import pytest
import torch

from fromnoise import checkpoints, data, recipes, training
from fromnoise.paths import GaussianPath
from fromnoise.recipes import checkerboard_flow
from fromnoise.training import Settings
from fromnoise.variational import LearnedVarianceField

TINY = {"steps": 6, "batch_size": 8, "warmup": 2, "progress": False}


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="no recipe is called 'nix': there are checkerboard-flow,"):
        recipes.get("nix")
    assert {"checkerboard-flow", "digits-flow"} <= set(recipes.names())


def test_unknown_budget_lists_the_known_ones():
    with pytest.raises(ValueError, match="budget is 'tpu': checkerboard-flow has cpu, gpu"):
        recipes.train("checkerboard-flow", "tpu")


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_are_complete(name):
    recipe = recipes.get(name)
    assert recipe.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.name = "other"
    assert set(recipe.budgets) == {"cpu", "gpu"}
    for settings in recipe.budgets.values():
        Settings(**settings)  # raises if one is impossible
    net = recipe.build()
    assert sum(p.numel() for p in net.parameters()) <= 2_000_000
    x = torch.randn(2, *recipe.event)
    if recipe.schedule is None:  # a reader of labels, or an autoencoder
        labels = "classes" in recipe.options
        assert recipe.prediction is None
        assert net(x).shape == ((2, recipe.options["classes"]) if labels else x.shape)
        return
    outputs = 2 if recipe.variance == "learned" else 1  # a prediction, and the variance's place
    assert net(x, 0.5).shape == (2, outputs * x.shape[1], *x.shape[2:])


def test_building_depends_on_the_seed_alone():
    recipe = recipes.get("checkerboard-flow")
    before = torch.get_rng_state()
    first, same, other = recipe.build(1), recipe.build(1), recipe.build(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.first.weight, same.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)


def test_trained_weights_are_written_and_load(tmp_path):
    out = tmp_path / "weights.safetensors"
    trained = recipes.train("checkerboard-flow", out=out, seed=3, **TINY)
    found = checkpoints.load(out)
    x = torch.randn(4, 2)
    assert torch.equal(found.net(x, 0.5), trained.net(x, 0.5))
    assert found.record == trained.record
    assert found.record["recipe"] == "checkerboard-flow" and found.record["seed"] == 3
    assert found.record["settings"]["steps"] == 6  # what was changed is told
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]  # checkpoint removed
    assert found.sample(3, steps=2).shape == (3, 2)


def test_sampling_in_batches_is_the_same(tmp_path):
    out = tmp_path / "weights.safetensors"
    recipes.train("checkerboard-flow", out=out, **TINY)
    found = checkpoints.load(out)
    whole, parts = (
        found.sample(10, steps=3, batch_size=size, generator=torch.Generator().manual_seed(0))
        for size in (256, 4)
    )
    assert torch.allclose(whole, parts, atol=1e-6)


def test_a_learned_variance_comes_back_as_a_field_with_one(tmp_path):
    out = tmp_path / "weights.safetensors"
    recipes.train("digits-ddpm", out=out, steps=2, batch_size=4, warmup=1, progress=False)
    found = checkpoints.load(out)
    assert isinstance(found.field, LearnedVarianceField) and found.record["variance"] == "learned"
    x = torch.randn(3, 1, 28, 28)
    noise, fraction = found.field.both(x, 0.5)
    whole = torch.cat([noise, 2 * fraction - 1], dim=1)
    # v = (w + 1) / 2 and back: two roundings of a number near 1/2
    assert torch.allclose(whole, found.net(x, torch.full((3,), 0.5)), atol=3e-7)
    assert found.sample(2, steps=2).shape == (2, 1, 28, 28)


def test_an_interrupted_recipe_resumes_to_the_same_weights(tmp_path, monkeypatch):
    expected = recipes.train("checkerboard-flow", **TINY)
    out = tmp_path / "weights.safetensors"
    target, calls = checkerboard_flow.RECIPE.target, []

    def failing(self, net, data, generator=None):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the power is cut")
        return loss(self, net, data, generator)

    loss = target.loss
    with monkeypatch.context() as patch:
        patch.setattr(target, "loss", failing)
        with pytest.raises(RuntimeError, match="power"):
            recipes.train("checkerboard-flow", out=out, **TINY)
    assert not out.exists() and (tmp_path / "weights.safetensors.training").is_dir()
    found = recipes.train("checkerboard-flow", out=out, resume=True, **TINY)
    assert found.losses == expected.losses
    states = found.net.state_dict(), expected.net.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_the_checkpoint_of_another_recipe_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "weights.safetensors"
    monkeypatch.setattr(checkpoints, "save", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        recipes.train("checkerboard-flow", out=out, **TINY)
    other = dataclasses.replace(checkerboard_flow.RECIPE, options={"dim": 2, "hidden": 8})
    with pytest.raises(training.CheckpointError, match="is of another run: network is 'MLP"):
        other.train(out=out, resume=True, **TINY)


def test_a_model_with_another_source_starts_from_it(tmp_path):
    out = tmp_path / "weights.safetensors"
    recipes.train("moons-ot", out=out, **TINY)
    found = checkpoints.load(out)
    assert found.record["source"]["name"] == "eight_gaussians"
    start = found.draw_source(2000, torch.Generator().manual_seed(0))
    assert (start.norm(dim=1) - 2.0).abs().max() < 1.0  # normal noise would be near the middle
    assert start.norm(dim=1).min() > 1.0
    same = found.sample(7, steps=2, generator=torch.Generator().manual_seed(1))
    given = found.draw_source(7, torch.Generator().manual_seed(1))
    assert torch.equal(found.sample(7, steps=2, source=given), same)
    with pytest.raises(ValueError, match="source has shape"):
        found.sample(6, steps=2, source=given)


def test_coupled_models_refuse_to_give_a_score(tmp_path):
    out = tmp_path / "weights.safetensors"
    recipes.train("moons-ot", out=out, **TINY)
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="trained on coupled pairs"):
        checkpoints.load(out).field.score(x, 0.5)
    recipes.train("checkerboard-flow", out=out, **TINY)
    assert checkpoints.load(out).field.score(x, 0.5).shape == x.shape


def test_reflow_is_made_from_the_registered_weights_and_starts_from_them():
    recipe = recipes.get("moons-reflow-1")
    first = checkpoints.load("moons-flow")
    net = recipe.initial(seed=5)
    assert all(
        torch.equal(a, b) for a, b in zip(net.parameters(), first.net.parameters(), strict=True)
    )
    few = dataclasses.replace(
        recipe, target=functools.partial(recipe.target, pairs=300, steps=4), name="few"
    )
    a, b = few.train(**TINY), few.train(**TINY)
    assert a.losses == b.losses  # the same pairs
    assert a.record["start"]["name"] == "moons-flow"
    coupling = few.target(GaussianPath(recipe.schedule)).coupling
    start = first.draw_source(300, torch.Generator().manual_seed(1))
    assert torch.equal(coupling.noise, start)
    assert torch.allclose(coupling.data, first.sample(300, steps=4, source=start), atol=1e-6)


# Recipes of labels -------------------------------------------------------------------------------


def _few(n=64):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8)
    return data.Images(images, torch.arange(n) % 10, "a patched set")


@pytest.mark.parametrize("name", ["fashion-conditional", "fashion-dit"])
def test_clothes_are_the_digit_recipes_with_other_data(name, monkeypatch, tmp_path):
    twin = recipes.get(name.replace("fashion", "digits"))
    mine = recipes.get(name)
    same = ("event", "network", "options", "schedule", "budgets", "target", "prediction")
    assert all(getattr(mine, key) == getattr(twin, key) for key in same)
    asked = []
    monkeypatch.setattr(data, "fashion", lambda split: asked.append(split) or _few())
    out = tmp_path / "w.safetensors"
    settings = {"steps": 2, "batch_size": 8, "warmup": 1, "progress": False}
    trained = recipes.train(name, out=out, **settings)
    assert asked == ["train"]
    assert trained.record["data_source"] == "a patched set, with labels"
    assert trained.record["recipe"] == name
    assert checkpoints.load(out).sample(3, steps=2, labels=7, guidance=2.0).shape == (3, 1, 28, 28)


def test_clothes_without_files_or_network_say_what_to_do(monkeypatch, tmp_path, no_network):
    monkeypatch.delenv("FROMNOISE_DATA", raising=False)
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path))
    with pytest.raises(data.Unreachable, match=r"set FROMNOISE_DATA to a folder that holds fash"):
        recipes.train("fashion-conditional", **TINY)


@pytest.mark.parametrize("of", ["digits", "fashion"])
def test_the_reader_is_trained_and_its_record_has_its_accuracy(of, monkeypatch, tmp_path):
    monkeypatch.setattr(data, of, lambda split: _few(64 if split == "train" else 50))
    out = tmp_path / "w.safetensors"
    trained = recipes.train(f"{of}-features", out=out, **TINY)
    found = checkpoints.load(out)
    assert found.record == json.loads(json.dumps(trained.record))  # tuples become lists
    assert "schedule" not in found.record
    said = found.record["evaluation"]
    images = data.to_unit(_few(50).images)
    right = (found.net(images).argmax(1) == _few(50).labels).double().mean().item()
    assert said["accuracy"] == pytest.approx(right, abs=1e-6) and said["images"] == 50
    assert said["standard_error"] == pytest.approx((right * (1 - right) / 50) ** 0.5, abs=1e-6)
    with pytest.raises(ValueError, match="-features has no time and makes no samples"):
        found.sample(2)
