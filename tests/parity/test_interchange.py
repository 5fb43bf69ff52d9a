"""Exported models sample in 🤗 Diffusers as they do here, and come back as they went.

Networks are small and have random weights everywhere: a head that starts at zero would hide what
the network computes. Tolerance of the parity tests: 1e-5 of the largest sample, in float32, after
some twenty steps whose rounding errors (6e-8 each) are amplified where alpha is small.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fromnoise import grids, interchange, samplers
from fromnoise.checkpoints import Pretrained, assemble, build_network, describe_schedule
from fromnoise.discrete_schedules import DiscreteVP, cosine_betas, linear_betas
from fromnoise.fields import NetworkField
from fromnoise.interchange import export_pipeline, import_pipeline, load_pipeline
from fromnoise.networks.embeddings import sinusoids
from fromnoise.schedules import VP, CondOT
from fromnoise.training import CheckpointError

LABELS = [2, 0, 1, 2]
UNET = {"name": "UNet", "options": {"widths": [8, 16], "embedding": 16, "classes": 3}}
DIT = {
    "name": "DiT",
    "options": {"size": 8, "patch": 2, "dim": 16, "depth": 2, "heads": 2, "classes": 3},
}
ROTARY = {"name": "DiT", "options": {**DIT["options"], "positions": "rotary", "classes": None}}
MLP = {"name": "MLP", "options": {"dim": 2, "hidden": 16, "depth": 2}}
INNER = {
    "name": "Preconditioned",
    "options": {"network": UNET, "schedule": describe_schedule(CondOT()), "sigma_data": 0.5},
}


def trained(network, prediction="velocity", schedule=None, seed=0, **more) -> Pretrained:
    """A model with random weights, none of them zero, as if it had been trained."""
    net = build_network(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 10.0
            weight.copy_(torch.randn(weight.shape, generator=generator) / fan_in**0.5)
    event = [2] if network["name"] == "MLP" else [1, 8, 8]
    record = {
        "recipe": "random",
        "network": network,
        "prediction": prediction,
        "schedule": describe_schedule(schedule or CondOT()),
        "event": event,
        **more,
    }
    return assemble(net.state_dict(), record, "random weights")


def start(model, n=4):
    return torch.randn(n, *model.event, generator=torch.Generator().manual_seed(1))


def assert_same(mine, other, tolerance=1e-5):
    assert other.shape == mine.shape
    assert ((mine - other).abs().max() / mine.abs().max()).item() <= tolerance


@pytest.fixture
def diffusers(tmp_path, monkeypatch):
    """Diffusers with its copies of loaded code in a temporary folder."""
    library = pytest.importorskip("diffusers")
    from diffusers.utils import dynamic_modules_utils, logging

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    logging.disable_progress_bar()
    return library


def loaded(model, folder):
    pipe = load_pipeline(export_pipeline(model, folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


# Sampling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 2.5, 0.0])
@pytest.mark.parametrize(("network", "component"), [(UNET, "unet"), (DIT, "transformer")])
def test_flow_with_labels(diffusers, tmp_path, network, component, guidance):
    """`FlowMatchEulerDiscreteScheduler` is our `flow_euler` on a uniform grid."""
    model = trained(network)
    pipe = loaded(model, tmp_path / "x")
    assert type(pipe).__name__ == "FromNoisePipeline"
    assert isinstance(pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
    assert pipe.model is getattr(pipe, component)
    x = start(model)
    options = {"num_inference_steps": 20, "output_type": "latent", "latents": x}
    other = pipe(class_labels=LABELS, guidance_scale=guidance, **options).images
    field = model.guided(torch.tensor(LABELS), guidance)
    with torch.no_grad():
        mine = samplers.flow_euler(field, x, grids.uniform(CondOT(), 20))
    assert (mine - x).abs().max() > 0.1  # the network does something
    assert_same(mine, other)


@pytest.mark.parametrize("prediction", ["velocity", "data", "v"])
@pytest.mark.parametrize("network", [UNET, ROTARY, MLP, INNER], ids=lambda n: n["name"])
def test_flow_of_every_prediction(diffusers, tmp_path, network, prediction):
    """Data and v predictions become velocities inside the exported model."""
    model = trained(network, prediction)
    pipe = loaded(model, tmp_path / "x")
    x = start(model)
    other = pipe(latents=x, num_inference_steps=16, output_type="latent").images
    with torch.no_grad():
        mine = samplers.flow_euler(model.field, x, grids.uniform(CondOT(), 16))
    assert_same(mine, other)


SCHEDULES = [DiscreteVP(linear_betas()), DiscreteVP(cosine_betas(100, max_beta=0.9))]


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "cosine"])
@pytest.mark.parametrize("prediction", ["noise", "data", "v"])
def test_discrete_steps(diffusers, tmp_path, prediction, schedule, eta):
    """`DDIMScheduler` is our `ddim` along the trailing steps, with the same fresh noise."""
    model = trained(UNET, prediction, schedule)
    pipe = loaded(model, tmp_path / "x")
    assert isinstance(pipe.scheduler, diffusers.DDIMScheduler)
    x = start(model)
    other = pipe(
        class_labels=LABELS, latents=x, num_inference_steps=20, eta=eta, output_type="latent",
        generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    field = model.field.given(torch.tensor(LABELS))
    grid = grids.of_steps(schedule, 20, "trailing")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        mine = samplers.ddim(field, x, grid, eta=eta, generator=generator)
    assert_same(mine, other)


def test_learned_variance(diffusers, tmp_path):
    """The second half of the output, the variance, is no business of DDIM."""
    options = {**UNET["options"], "outputs": 2, "classes": None}
    model = trained({"name": "UNet", "options": options}, "noise", SCHEDULES[1], variance="learned")
    pipe = loaded(model, tmp_path / "x")
    x = start(model)
    other = pipe(latents=x, num_inference_steps=10, output_type="latent").images
    with torch.no_grad():
        mine = samplers.ddim(model.field, x, grids.of_steps(SCHEDULES[1], 10))
    assert_same(mine, other)


def test_the_pipeline_alone(diffusers, tmp_path):
    """Draws of its own, pictures, another scheduler, half precision, custom_pipeline."""
    folder = str(export_pipeline(trained(UNET, "noise", SCHEDULES[0]), tmp_path / "x"))
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=folder, trust_remote_code=True
    )
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(class_labels=LABELS, num_inference_steps=2).images
    assert [p.size for p in pictures] == [(8, 8)] * 4
    draw = pipe(2, num_inference_steps=2, output_type="pt").images
    assert draw.shape == (2, 1, 8, 8) and draw.min() >= 0.0 and draw.max() <= 1.0

    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert pipe(num_inference_steps=7, output_type="np").images.shape == (1, 8, 8, 1)

    flow = loaded(trained(DIT), tmp_path / "y").to(torch.bfloat16)
    samples = flow(class_labels=1, num_inference_steps=3, output_type="latent").images
    assert samples.dtype == torch.bfloat16 and samples.isfinite().all()


def test_the_pipeline_refuses(diffusers, tmp_path):
    pipe = loaded(trained(UNET, "noise", SCHEDULES[0]), tmp_path / "x")
    with pytest.raises(ValueError, match=r"num_inference_steps=30 must divide 1000"):
        pipe(num_inference_steps=30)
    with pytest.raises(ValueError, match=r"class_labels must lie in \[0, 2\]"):
        pipe(class_labels=7)
    with pytest.raises(ValueError, match=r"guidance_scale=2\.0 without class_labels"):
        pipe(guidance_scale=2.0)
    with pytest.raises(ValueError, match="class_labels has 2 entries, but batch_size=3"):
        pipe(3, class_labels=[0, 1])
    with pytest.raises(ValueError, match="latents has shape"):
        pipe(latents=torch.zeros(1, 1, 4, 4))
    plane = loaded(trained(MLP), tmp_path / "y")
    with pytest.raises(ValueError, match="are no images"):
        plane(4)
    with pytest.raises(ValueError, match="trained without labels"):
        plane(4, class_labels=1, output_type="latent")


def test_theirs_tells_the_time_otherwise(diffusers):
    """Why the weights are not renamed: two frequencies never coincide with two of the other's."""
    from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings

    time = torch.tensor([1e-9], dtype=torch.float64)
    ours = sinusoids(time, 64)[0, 32:].asin() / time
    small = torch.tensor([1e-3])  # theirs computes in float32
    theirs = CombinedTimestepLabelEmbeddings(3, 16).time_proj(small)[0, 128:].double() / small
    assert ours.max().item() == pytest.approx(1000.0) and ours.min().item() == pytest.approx(1.0)
    assert theirs.max().item() == pytest.approx(1.0, rel=1e-5)
    assert theirs.min().item() == pytest.approx(1e-4, rel=1e-5)
    # Each unit of their time makes one pair coincide; then no other pair is as close as 1e-4.
    for mine in ours:
        for other in theirs:
            gap = (ours[:, None] / (theirs * mine / other) - 1.0).abs()
            assert int((gap < 1e-4).sum()) == 1


# There and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [UNET, DIT, INNER, MLP], ids=lambda n: n["name"])
def test_round_trip(tmp_path, network):
    """Without Diffusers: the same weights, bit for bit, and the same record."""
    model = trained(network, loss_curve={"loss": [1.0, 0.5]})
    folder = export_pipeline(model, tmp_path / "deep" / "x")
    back = import_pipeline(folder)
    assert back.record == model.record and back.event == model.event
    assert isinstance(back.field, NetworkField) and back.field.schedule == model.field.schedule
    before, after = model.net.state_dict(), back.net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not list(folder.parent.glob(".*")), "a temporary folder was left"
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))


def test_trained_further_in_diffusers(diffusers, tmp_path):
    """Saved there, imported with verify=False; the record says that the weights went on."""
    model = trained(UNET)
    folder = export_pipeline(model, tmp_path / "x")
    pipe = load_pipeline(folder)
    x, t = start(model), torch.full((4,), 500.0)
    pipe.unet(x, t, torch.tensor(LABELS)).sample.square().mean().backward()
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight -= 0.01 * weight.grad
    pipe.unet.save_pretrained(folder / "unet")
    with pytest.raises(CheckpointError, match="verify=False"):
        import_pipeline(folder)
    back = import_pipeline(folder, verify=False)
    assert "after the export" in back.record["continued"]
    assert torch.equal(back.net.last.weight, pipe.unet.net.last.weight)
    assert not torch.equal(back.net.last.weight, model.net.last.weight)


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(interchange, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        export_pipeline(trained(MLP), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    export_pipeline(trained(MLP), folder)  # an empty folder is welcome
    with pytest.raises(FileExistsError, match="exists already"):
        export_pipeline(trained(MLP, seed=1), folder)
    assert import_pipeline(folder).record["recipe"] == "random"


REFUSED = {
    "noise at the start": ({"prediction": "noise"}, "does not determine the velocity at t = 0"),
    "score at the start": ({"prediction": "score"}, "does not determine the velocity at t = 0"),
    "score of steps": ({"prediction": "score", "schedule": SCHEDULES[0]}, "DDIMScheduler takes"),
    "schedule": ({"schedule": VP()}, "no scheduler of Diffusers"),
    "source": ({"source": {"name": "eight_gaussians", "options": {}}}, "starts from normal noise"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_models_that_diffusers_cannot_sample(tmp_path, why):
    options, message = REFUSED[why]
    with pytest.raises(ValueError, match=message):
        export_pipeline(trained(MLP, **options), tmp_path / "x")
    assert not (tmp_path / "x").exists()


# Damage ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return export_pipeline(trained(DIT), tmp_path / "x")


@pytest.mark.parametrize("read", [import_pipeline, load_pipeline])
def test_a_changed_file_is_refused(folder, read):
    for place in interchange._places("transformer"):
        content = (folder / place).read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        (folder / place).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=rf"{place}.*SHA-256 differs"):
            read(folder)
        (folder / place).unlink()
        with pytest.raises(CheckpointError, match=rf"{place} is missing"):
            read(folder)
        (folder / place).write_bytes(content)
    (folder / "README.md").write_text("A card of my own.")
    import_pipeline(folder)


def test_weights_that_do_not_fit(folder):
    path = folder / "transformer" / interchange.WEIGHTS
    tensors = load_file(path)
    for change, message in (
        ({"net.first.weight": torch.zeros(3, 3)}, "does not fit the network.*first.weight"),
        ({"net.unknown": torch.zeros(1)}, "unknown"),
        ({"elsewhere": torch.zeros(1)}, "'elsewhere', which is no weight"),
    ):
        save_file({**tensors, **change}, path)
        with pytest.raises(CheckpointError, match=message.replace("*", "(?s:.)*")):
            import_pipeline(folder, verify=False)
    path.write_bytes(b"\x80\x04.")  # the beginning of a pickle
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        import_pipeline(folder, verify=False)


def test_wrong_folders(folder, tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        import_pipeline(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no fromnoise\.json"):
        import_pipeline(tmp_path / "empty")
    path = folder / interchange.RECORD
    about = json.loads(path.read_text())
    for text, message in (
        ("{", "is damaged"),
        ("[]", "no JSON object"),
        (json.dumps({**about, "format": "other"}), "format 'other'"),
        (json.dumps({**about, "record": {}}), "does not describe a model"),
        (json.dumps({**about, "sha256": {}}), "has no SHA-256"),
        (
            json.dumps({**about, "record": {**about["record"], "prediction": "data"}}),
            "says prediction='velocity', but the record .* 'data'",
        ),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            import_pipeline(folder)


def test_without_diffusers(folder, monkeypatch):
    """Only loading a pipeline needs it; the error says how to get it."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    import_pipeline(folder)
    with pytest.raises(ImportError, match="pip install diffusers"):
        load_pipeline(folder)
