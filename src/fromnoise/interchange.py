"""Models as 🤗 Diffusers pipeline folders, and back.

`export_pipeline` writes a folder that `diffusers.DiffusionPipeline.from_pretrained(folder,
trust_remote_code=True)` loads, so that whoever learned here goes on there: other schedulers,
fine-tuning, the hub. `import_pipeline` reads it again. Neither needs Diffusers; `load_pipeline`,
which loads the folder there, does.

**What is in it.** ``unet/`` or ``transformer/`` (``network/`` for models of the plane) with the
configuration and the weights, never a pickle; ``scheduler/``; ``model_index.json``; two short files
of code, since our networks are none of theirs; and ``fromnoise.json``, the record of how the
weights were made and the SHA-256 of every other file but the readme. Diffusers' own
``pipe.save_pretrained`` leaves such code behind: save what was trained further into the exported
folder, by ``pipe.unet.save_pretrained(folder / "unet")``, and publish that.

**Which models.** On the straight path (`CondOT`) the scheduler is `FlowMatchEulerDiscreteScheduler`
and the model returns minus the velocity, by sigma = 1 - t (`app-conventions`); network predictions
of data and v are converted. With the steps of `DiscreteVP` it is `DDIMScheduler`, from the last
step on ("trailing"), for networks that predict noise, data or v. Others are refused with a reason.

**Why the networks carry their own code.** Weights could be renamed only if the architectures
computed the same functions. They do not, and no choice of their weights makes up for it:

- Both `DiTTransformer2DModel` and `UNet2DModel` tell the time by frequencies that fall from 1 to
  about 1e-4 a timestep (the former by 128 of them, spaced by 10^(4/127)). Ours are 32, spaced by
  10^(3/31) up to 1000 in t; whatever the unit of their time, no two of them coincide with two of
  the transformer's. Both apply SiLU to the sum of time and label, we to the time alone, before the
  sum.
- The blocks of `DiTTransformer2DModel` are ours, up to the order of adaLN-Zero's six vectors. But
  the sinusoids of its positions, which are no weights either, have the frequencies
  10000^(-4 i / d), while ours fall from pi/2 by a factor of 100; and it is never without labels.
- `UNet2DModel` also hands its first convolution and every downsampling across, has one block more
  on each level of the way up and two in the middle, and does not fold pixels into patches. Zeros
  in the right places would switch the surplus off; the time remains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fromnoise._files import new_folder, sha256
from fromnoise.checkpoints import Pretrained, assemble, build_schedule, record_text
from fromnoise.discrete_schedules import DiscreteVP
from fromnoise.predictions import coefficients
from fromnoise.schedules import CondOT
from fromnoise.training import CheckpointError, read_tensors

FORMAT = "fromnoise-diffusers-1"
RECORD = "fromnoise.json"
PREFIX = "net."  # of the weights' names, as the exported model holds the network in `net`
COMPONENTS = {"UNet": "unet", "DiT": "transformer"}
WEIGHTS = "diffusion_pytorch_model.safetensors"
# What each prediction is called in DDIMScheduler; it knows no others.
KINDS = {"noise": "epsilon", "data": "sample", "v": "v_prediction"}
FLOW_STEPS = 1000  # timesteps of the flow's scheduler: units of its clock, not a number of steps


def export_pipeline(model: Pretrained, folder: str | Path) -> Path:
    """Write the model and its schedule as a Diffusers pipeline folder, whole or not at all.

    Args:
        model: trained weights, as `fromnoise.checkpoints.load` returns them.
        folder: to be made; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        ValueError: no scheduler of Diffusers samples this model: it has another schedule or
            prediction, or starts from another law than normal noise.
        FileExistsError: there is something at ``folder`` already.
    """
    record = json.loads(json.dumps(model.record))
    texts = _texts(record)
    name = _component(record)
    tensors = {
        PREFIX + key: value.detach().cpu().contiguous()
        for key, value in model.net.state_dict().items()
    }
    with new_folder(folder) as part:
        for place, text in texts.items():
            (part / place).parent.mkdir(exist_ok=True)
            (part / place).write_text(text, encoding="utf-8")
        save_file(tensors, part / name / WEIGHTS, metadata={"format": "pt"})
        hashes = {place: sha256((part / place).read_bytes()) for place in _places(name)}
        about = {"format": FORMAT, "record": record, "sha256": hashes}
        (part / RECORD).write_text(record_text(about), encoding="utf-8")
    return Path(folder)


def import_pipeline(
    folder: str | Path, *, verify: bool = True, device: str | torch.device = "cpu"
) -> Pretrained:
    """Read a folder that `export_pipeline` wrote; nothing of its code is run.

    Args:
        folder: the pipeline's folder.
        verify: compare every file with its SHA-256. Say False for weights that were trained further
            in Diffusers and saved into the folder by ``pipe.unet.save_pretrained(folder / "unet")``
            (or transformer); the record then says so.
        device: where to put the network.

    Raises:
        CheckpointError: the folder is missing or no such folder, a file is missing or changed, or
            the weights do not fit the network that the record describes.
    """
    folder = Path(folder)
    about = _about(folder)
    record, name = about["record"], _component(about["record"])
    changed = _changed(folder, about["sha256"], name)
    if changed and verify:
        raise CheckpointError(
            f"{folder / changed[0]} is not the file that was exported (its SHA-256 differs): "
            "export the model anew; if you trained it further on purpose, say verify=False"
        )
    _check_config(folder / name / "config.json", record)
    tensors, _ = read_tensors(folder / name / WEIGHTS)
    foreign = [key for key in tensors if not key.startswith(PREFIX)]
    if foreign:
        raise CheckpointError(
            f"{folder / name / WEIGHTS} holds {foreign[0]!r}, which is no weight of a network of "
            f"this package (they begin with {PREFIX!r}): export the model anew"
        )
    if f"{name}/{WEIGHTS}" in changed:
        record["continued"] = "the weights were changed after the export to Diffusers"
    tensors = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    return assemble(tensors, record, folder / name / WEIGHTS, device)


def load_pipeline(folder: str | Path) -> Any:
    """The folder as a pipeline of Diffusers, after its files were verified.

    The same as ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)``, which runs
    the two files of code in the folder.

    Raises:
        CheckpointError: see `import_pipeline`.
        ImportError: Diffusers is not installed.
    """
    folder = Path(folder)
    about = _about(folder)
    if changed := _changed(folder, about["sha256"], _component(about["record"])):
        raise CheckpointError(
            f"{folder / changed[0]} is not the file that was exported (its SHA-256 differs): "
            "export the model anew, or, if you changed it on purpose, load the folder by "
            "diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)"
        )
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ImportError(
            "load_pipeline needs 🤗 Diffusers, which the package does not install: "
            "pip install diffusers"
        ) from error
    return DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)


# The files ---------------------------------------------------------------------------------------


def _component(record: Mapping[str, Any]) -> str:
    """What Diffusers calls the network: unet or transformer, or network if it is neither."""
    spec = record["network"]
    while isinstance(spec["options"].get("network"), dict):  # the one inside, of Preconditioned
        spec = spec["options"]["network"]
    return COMPONENTS.get(spec["name"], "network")


def _places(name: str) -> list[str]:
    """The files that are verified: all but the record and the readme, which anyone may edit."""
    return [
        "model_index.json",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        f"{name}/config.json",
        f"{name}/fromnoise_model.py",
        f"{name}/{WEIGHTS}",
    ]


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    """The folder's files of text, but for the record: place to content."""
    name, scheduler = _component(record), _scheduler(record)
    others = {other: [None, None] for other in ("unet", "transformer", "network") if other != name}
    index = {
        "_class_name": ["pipeline", "FromNoisePipeline"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        name: ["fromnoise_model", "FromNoiseModel"],
        **others,
    }
    code = resources.files("fromnoise").joinpath("exported")
    title = record.get("recipe", "A model of From Noise")
    readme = f"""# {title}

Exported by the Python package `fromnoise`, which it needs (as well as `diffusers`). Load it by

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)
    samples = pipe(batch_size=16, output_type="latent").images

which runs `pipeline.py` and `{name}/fromnoise_model.py`. `{RECORD}` says how the weights were made;
`fromnoise.interchange.import_pipeline("FOLDER")` reads them back. Save weights that you train
further into this folder, by `pipe.{name}.save_pretrained("FOLDER/{name}")`: `pipe.save_pretrained`
does not copy the code.
"""
    return {
        "README.md": readme,
        "model_index.json": json.dumps(index, indent=2) + "\n",
        "pipeline.py": code.joinpath("pipeline.py").read_text("utf-8"),
        "scheduler/scheduler_config.json": record_text(scheduler),
        f"{name}/config.json": record_text(_config(record)),
        f"{name}/fromnoise_model.py": code.joinpath("fromnoise_model.py").read_text("utf-8"),
    }


def _scheduler(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the scheduler that samples the model; ValueError if none does."""
    schedule, kind = build_schedule(record["schedule"]), record["prediction"]
    if "source" in record:
        raise ValueError(
            f"source: the model starts from {record['source']['name']}, but a Diffusers pipeline "
            "starts from normal noise; export a model that was trained from noise"
        )
    if isinstance(schedule, CondOT):
        start = torch.zeros(1, dtype=torch.float64)
        a, b = coefficients(kind, start, schedule)
        # The determinant of `prp-conversion` at t = 0, where alpha = 0 and sigma = 1 and sampling
        # begins, is a up to its sign.
        if not bool((a != 0).all() & a.isfinite().all() & b.isfinite().all()):
            raise ValueError(
                f"prediction: a network that predicts the {kind} on the straight path does not "
                "determine the velocity at t = 0, where Diffusers starts; export one that predicts "
                "velocity, data or v"
            )
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": FLOW_STEPS,
            "shift": 1.0,
        }
    if isinstance(schedule, DiscreteVP):
        if kind not in KINDS:
            raise ValueError(
                f"prediction: DDIMScheduler takes {', '.join(KINDS)}, but the network predicts the "
                f"{kind}"
            )
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": schedule.steps,
            "trained_betas": list(schedule.betas),
            "prediction_type": KINDS[kind],
            "clip_sample": False,
            "set_alpha_to_one": True,
            "timestep_spacing": "trailing",
        }
    raise ValueError(
        f"schedule: {schedule!r} has no scheduler of Diffusers here; CondOT and DiscreteVP have, "
        "and a model trained on another Gaussian path is seen along the straight one by "
        "fromnoise.fields.TransformedField"
    )


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the exported model, `FromNoiseModel`."""
    schedule = build_schedule(record["schedule"])
    discrete = isinstance(schedule, DiscreteVP)
    return {
        "_class_name": "FromNoiseModel",
        "network": record["network"],
        "prediction": record["prediction"],
        "clock": "steps" if discrete else "flow",
        "num_train_timesteps": schedule.steps if discrete else FLOW_STEPS,
        "event": list(record["event"]),
        "learned_variance": record.get("variance") == "learned",
    }


# Reading -----------------------------------------------------------------------------------------


def _about(folder: Path) -> dict[str, Any]:
    """The contents of ``fromnoise.json``, checked as far as names and kinds."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder: give one that `fromnoise export` wrote")
    path = folder / RECORD
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no model of this package (it has no {RECORD}): give a folder that "
            "`fromnoise export` wrote"
        )
    about = _json(path)
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has the format {about.get('format')!r}, expected {FORMAT!r}: it was written "
            "by another version of the package; export the model anew"
        )
    try:
        record = about["record"]
        missing = set(_places(_component(record))) - set(about["sha256"])
        _config(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not describe a model ({type(error).__name__}: {error}): export it anew"
        ) from error
    if missing:
        raise CheckpointError(f"{path} has no SHA-256 of {min(missing)}: export the model anew")
    return about


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: export the model anew") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise CheckpointError(f"{path} is damaged ({error}): export the model anew") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged (no JSON object): export the model anew")
    return found


def _changed(folder: Path, hashes: Mapping[str, str], name: str) -> list[str]:
    """The files whose content is not the exported one; CheckpointError if one is missing."""
    changed = []
    for place in _places(name):
        if not (folder / place).is_file():
            raise CheckpointError(f"{folder / place} is missing: export the model anew")
        if sha256((folder / place).read_bytes()) != hashes[place]:
            changed.append(place)
    return changed


def _check_config(path: Path, record: Mapping[str, Any]) -> None:
    """Raise a CheckpointError unless the configuration is the one that the record implies."""
    found = _json(path)
    for key, value in _config(record).items():
        if found.get(key) != value:
            raise CheckpointError(
                f"{path} says {key}={found.get(key)!r}, but the record of the model in {RECORD} "
                f"says {value!r}: export the model anew"
            )
