"""Weights: what is landed is what is registered, and nothing else is ever loaded."""

import json
import re
import shutil
import time
from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from fromnoise import checkpoints, data, recipes, solvers
from fromnoise._files import replacing, sha256
from fromnoise.checkpoints import CheckpointError
from fromnoise.discrete_schedules import DiscreteVP, linear_betas
from fromnoise.distributions import Checkerboard
from fromnoise.schedules import VE, VP, CondOT, Cosine

ROOT = Path(__file__).resolve().parents[1]
LANDED = sorted(checkpoints.registry())
RECORD = {
    "recipe": "tiny",
    "network": {"name": "MLP", "options": {"dim": 2, "hidden": 8, "depth": 1}},
    "schedule": checkpoints.describe_schedule(VP(beta_max=7.0)),
    "prediction": "noise",
    "event": [2],
    "loss_curve": {"step": [0.0, 1.0], "loss": [2.0, 1.0]},
}


@pytest.fixture
def tiny(tmp_path):
    """A weights file of a small network, and that network."""
    net = checkpoints.build_network(RECORD["network"])
    path = tmp_path / "tiny.safetensors"
    checkpoints.save(path, net, RECORD)
    return path, net


@pytest.fixture
def elsewhere(tiny, tmp_path, monkeypatch):
    """A machine without the checkout whose registry knows ``tiny``; its cache folder."""
    content = tiny[0].read_bytes()
    entry = {"file": "tiny.safetensors", "sha256": sha256(content), "bytes": len(content)}
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: None)
    monkeypatch.setattr(checkpoints, "registry", lambda: {"tiny": entry})
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints" / "tiny.safetensors"


# Files -------------------------------------------------------------------------------------------


def test_what_is_saved_is_read(tiny):
    path, net = tiny
    found = checkpoints.load(path)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.net(x, 0.3), net(x, 0.3))
    assert not found.net.training
    assert found.record == RECORD and found.event == (2,)
    assert found.field.prediction == "noise" and found.field.schedule == VP(beta_max=7.0)
    assert torch.equal(found.field.noise(x, 0.3), net(x, 0.3))
    assert checkpoints.load(str(path)).record == RECORD


def test_saving_refuses_weights_that_do_not_fit_their_record(tmp_path):
    other = checkpoints.build_network({"name": "MLP", "options": {"dim": 3}})
    with pytest.raises(RuntimeError, match="size mismatch"):
        checkpoints.save(tmp_path / "a.safetensors", other, RECORD)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 7, 60, -1], ids=lambda k: f"first {k} bytes")
def test_truncated_weights_are_refused(tiny, keep):
    path, _ = tiny
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"tiny.safetensors cannot be read as safetensors"):
        checkpoints.load(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nix\.safetensors does not exist"):
        checkpoints.load(tmp_path / "nix.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="holds no weights of this package"):
        checkpoints.load(foreign)
    pickled = tmp_path / "pickled.safetensors"
    torch.save({"a": torch.zeros(1)}, pickled)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        checkpoints.load(pickled)


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"name": "Nix", "options": {}}},
        {"network": {"name": "MLP", "options": {"dim": 2, "hidden": 16}}},
        {"network": {"name": "MLP", "options": {"breadth": 2}}},
        {"schedule": {"name": "Path", "options": {}}},
        {"event": None},
    ],
)
def test_a_record_that_does_not_fit_is_refused(tiny, change):
    path, net = tiny
    header = {"format": checkpoints.FORMAT, "record": json.dumps({**RECORD, **change})}
    save_file(dict(net.state_dict()), path, metadata=header)
    with pytest.raises(CheckpointError, match="does not fit the network that its record describes"):
        checkpoints.load(path)


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


# Finding -----------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CheckpointError, match=r"no checkpoint is called .nix.: there are .*digits"):
        checkpoints.load("nix")


def test_the_checkout_serves_without_network(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path))
    assert checkpoints.find("digits-flow").is_relative_to(ROOT / "book" / "_static")
    assert not list(tmp_path.iterdir())


def test_a_changed_file_in_the_checkout_is_refused(tmp_path, monkeypatch):
    name = LANDED[0]
    source = checkpoints.find(name)
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    (tmp_path / source.name).write_bytes(bytes(content))
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: tmp_path)
    expected = checkpoints.registry()[name]["sha256"]
    with pytest.raises(CheckpointError, match=f"is not the registered file: .*{expected}"):
        checkpoints.load(name)


def test_downloads_from_the_site_once(tiny, elsewhere, served, monkeypatch):
    folder, address = served
    monkeypatch.setenv("FROMNOISE_SITE", address + "book")  # any base path, with or without slash
    remote = folder / "book" / checkpoints.FOLDER
    remote.mkdir(parents=True)
    shutil.copy(tiny[0], remote)
    assert checkpoints.load("tiny").record == RECORD
    assert elsewhere.is_file()
    (remote / "tiny.safetensors").unlink()
    assert checkpoints.load("tiny").record == RECORD  # from the cache
    elsewhere.write_bytes(b"damaged")
    shutil.copy(tiny[0], remote)
    assert checkpoints.load("tiny").record == RECORD  # fetched anew


def test_a_wrong_download_is_refused_and_not_kept(elsewhere, served, monkeypatch):
    folder, address = served
    monkeypatch.setenv("FROMNOISE_SITE", address)
    remote = folder / checkpoints.FOLDER
    remote.mkdir(parents=True)
    (remote / "tiny.safetensors").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not the registered file"):
        checkpoints.load("tiny")
    assert not [p for p in elsewhere.parent.iterdir() if p.is_file()]


def test_a_missing_network_is_one_quick_sentence(elsewhere, no_network, monkeypatch):
    monkeypatch.delenv("FROMNOISE_SITE", raising=False)
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load("tiny")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message and checkpoints.site() in message
    assert "FROMNOISE_SITE" in message and "fromnoise train tiny" in message


def test_the_shipped_address_is_the_one_that_config_implies():
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    owner, name = re.fullmatch(
        r"https://github\.com/([^/]+)/([^/]+)", config["repository"]["url"]
    ).groups()
    shipped = json.loads(resources.files("fromnoise").joinpath("_site.json").read_text("utf-8"))
    assert shipped == {"site": f"https://{owner}.github.io/{name}/"}


# Publishing --------------------------------------------------------------------------------------


def test_publish_copies_records_and_registers(tiny, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "checkpoints.json").write_text("{}")
    monkeypatch.setattr(checkpoints.resources, "files", lambda name: package)
    landed = checkpoints.publish(tiny[0], tmp_path / "landed")
    assert landed.read_bytes() == tiny[0].read_bytes()
    assert json.loads((tmp_path / "landed" / "tiny.json").read_text()) == RECORD
    entry = checkpoints.registry()["tiny"]
    assert entry["sha256"] == sha256(landed.read_bytes())
    assert entry["bytes"] == landed.stat().st_size


def test_publish_refuses_weights_of_no_recipe(tiny, tmp_path):
    path, net = tiny
    record = {k: v for k, v in RECORD.items() if k != "recipe"}
    checkpoints.save(path, net, record)
    with pytest.raises(CheckpointError, match="was made by no recipe"):
        checkpoints.publish(path, tmp_path / "landed")
    assert not (tmp_path / "landed").exists()


# What is landed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LANDED)
def test_landed_weights_are_small_registered_and_recorded(name):
    folder = ROOT / "book" / "_static" / "checkpoints"
    entry = checkpoints.registry()[name]
    path = folder / entry["file"]
    content = path.read_bytes()
    assert sha256(content) == entry["sha256"] and len(content) == entry["bytes"] <= 5_000_000
    found = checkpoints.load(name)
    assert sum(p.numel() for p in found.net.parameters()) <= 2_000_000
    record = found.record
    assert record["parameters"] == sum(p.numel() for p in found.net.parameters())
    text = path.with_suffix(".json").read_text("utf-8")
    assert text == checkpoints.record_text(record)
    for key in ("seed", "steps", "device", "wall_seconds", "loss_curve", "versions", "data_source"):
        assert key in record
    assert record["loss_curve"]["loss"][-1] < record["loss_curve"]["loss"][0]


@pytest.mark.parametrize("name", LANDED)
def test_landed_weights_come_from_the_landed_recipe(name):
    record, recipe = checkpoints.load(name).record, recipes.get(name)
    assert record["recipe"] == name
    settings = recipe.budgets[record["budget"]]
    found = record["settings"]
    assert {k: found[k] for k in settings} == json.loads(json.dumps(settings))
    assert record["network"] == {
        "name": recipe.network,
        "options": json.loads(json.dumps(recipe.options)),
    }
    if recipe.schedule is None:  # a network without a time
        assert "schedule" not in record and "prediction" not in record
        return
    others = {
        "digits-ncsn": VE(sigma_min=0.02, sigma_max=34.0),
        "digits-ddpm": DiscreteVP(linear_betas()),
    }
    expected = others.get(name, CondOT())
    assert checkpoints.build_schedule(record["schedule"]) == recipe.schedule == expected


def test_nothing_unregistered_is_landed():
    folder = ROOT / "book" / "_static" / "checkpoints"
    assert {p.stem for p in folder.iterdir()} == set(LANDED)


@pytest.mark.parametrize(
    ("prediction", "schedule", "span"),
    [
        ("velocity", CondOT(), (0.0, 1.0)),
        ("v", CondOT(), (0.0, 1.0)),
        ("v", Cosine(), (0.0, 1.0)),
        ("data", CondOT(), (0.0, 0.999)),
        ("noise", CondOT(), (0.001, 1.0)),
        ("score", CondOT(), (0.001, 0.999)),
        ("noise", VP(), (0.0, 0.999)),  # alpha_0 > 0; sigma' is infinite at the data
        ("velocity", VP(), (0.0, 0.999)),
    ],
)
def test_every_prediction_is_sampled_from(tmp_path, prediction, schedule, span, generator):
    """Over the times at which the prediction determines the velocity; then denoised."""
    record = {**RECORD, "prediction": prediction}
    record["schedule"] = checkpoints.describe_schedule(schedule)
    path = tmp_path / "tiny.safetensors"
    checkpoints.save(path, checkpoints.build_network(record["network"]), record)
    found = checkpoints.load(path)
    assert found.span == pytest.approx(span)
    assert torch.isfinite(found.sample(5, steps=3, generator=generator)).all()


def test_sampling_ends_with_the_denoised_state(tiny, generator):
    """One Euler step to t, then D_t."""
    found, t = checkpoints.load(tiny[0]), 0.5
    state = generator.get_state()
    x = found.sample(4, steps=1, method=solvers.euler, generator=generator, span=(0.25, t))
    noise = torch.randn(4, 2, generator=generator.set_state(state))
    noise = found.field.schedule.sigma(0.0) * noise  # 0.985 on this path: alpha_0 is not 0
    with torch.no_grad():
        moved = noise + 0.25 * found.field.velocity(noise, 0.25)
        torch.testing.assert_close(x, found.field.denoise(moved, t))


def test_sampling_begins_at_the_noise_of_the_schedule(tmp_path, generator):
    """On a variance-exploding path: sigma_0 times the noise, one Euler step, the denoiser."""
    schedule = VE(sigma_min=0.1, sigma_max=7.0)
    record = {**RECORD, "prediction": "data"}
    record["schedule"] = checkpoints.describe_schedule(schedule)
    path = tmp_path / "tiny.safetensors"
    checkpoints.save(path, checkpoints.build_network(record["network"]), record)
    found = checkpoints.load(path)
    state = generator.get_state()
    x = found.sample(4, steps=1, method=solvers.euler, generator=generator)
    start = 7.0 * torch.randn(4, 2, generator=generator.set_state(state))
    with torch.no_grad():
        moved = start + found.field.velocity(start, 0.0)
        torch.testing.assert_close(x, found.field.denoise(moved, 1.0))


def test_the_checkerboard_is_a_checkerboard():
    """Most points lie on dark squares (half of all would by chance), evenly on all eight."""
    generator = torch.Generator().manual_seed(0)
    x = checkpoints.load("checkerboard-flow").sample(4000, steps=25, generator=generator)
    dark = Checkerboard().log_prob(x).isfinite()
    assert dark.float().mean() > 0.85
    squares = (x[dark].floor() + 2).long()
    share = (squares[:, 0] * 4 + squares[:, 1]).bincount(minlength=16) / dark.sum()
    assert (share > 0).sum() == 8
    assert share[share > 0].min() > 0.08 and share.max() < 0.18  # 1/8 each, were it perfect


def test_samples_of_digits_are_recognized_and_diverse():
    """A nearest-neighbour classifier on the small digits is sure of most, and sees all classes.

    "Sure": of the 5 small digits that correlate most with the picture 4 share a class, and the
    best correlates by more than 0.65. So counted it was sure of 87 % of real digits (MNIST's test
    set), of 52 % of pictures pasted together from the halves of two digits, and of no noise; of
    200 samples of these weights, 74 %. Below 65 % they would be no better than scraps of digits.
    """
    generator = torch.Generator().manual_seed(0)
    x = checkpoints.load("digits-flow").sample(160, steps=10, generator=generator)
    assert x.shape == (160, 1, 28, 28) and x.isfinite().all()
    small = data.small_digits()
    real = data.to_unit(small.images)

    def standardized(images):
        flat = images.flatten(1)
        centred = flat - flat.mean(dim=1, keepdim=True)
        return centred / centred.norm(dim=1, keepdim=True)

    near = (standardized(x) @ standardized(real).T).topk(5)  # (160, 5)
    votes = torch.nn.functional.one_hot(small.labels[near.indices], 10).sum(dim=1)  # (160, 10)
    sure = (votes.amax(dim=1) >= 4) & (near.values[:, 0] > 0.65)
    assert sure.float().mean() > 0.65
    classes = votes.argmax(dim=1)[sure].bincount(minlength=10)
    assert (classes > 0).all()
    assert classes.max() <= 48  # no class has swallowed the others (16 of each, were it perfect)
    # They are drawn, not grey: most pixels are near paper or ink, in the share of real digits.
    assert (x.abs() > 0.7).float().mean() > 0.85
    ink = ((x > 0).float().mean() / (real > 0).float().mean()).item()
    assert 0.8 < ink < 1.25
