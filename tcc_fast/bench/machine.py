"""What a measurement was made on, and of: hardware, versions, data, recipe."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from tcc_fast import __version__
from tcc_fast.bench.contenders import Task
from tcc_fast.cores import available_cores
from tcc_fast.settings import AugmentConfig

PACKAGES = {"torch": "torch", "torchvision": "torchvision", "FFCV": "ffcv", "numba": "numba", "Pillow": "pillow"}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores that this process may use, and the GPU if one is used."""
    cores = available_cores()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"cpu": _processor(), "cores": cores, "gpu": gpu}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Versions of what matters for speed, by name; None: not installed."""
    found = {"tcc-fast": __version__, "python": platform.python_version()}
    every: dict[str, str] = {}
    for one in metadata.distributions():
        if one.name:
            every.setdefault(one.name.lower(), one.version)  # the first on the path is the one imported
    dali = next((name for name in every if name.startswith("nvidia-dali") and "plugin" not in name), "")
    return found | {name: every.get(package) for name, package in (PACKAGES | {"DALI": dali}).items()}


def describe_data(task: Task) -> dict[str, Any]:
    """The data set, and what is made of it."""
    dataset, config = task.dataset, task.config
    sides, pngs = dataset.sizes(), int(dataset.is_png().sum())
    return {
        "name": dataset.path.name,
        "images": len(dataset),
        "fingerprint": dataset.fingerprint,
        "mean_height": float(sides[:, 0].mean()),
        "mean_width": float(sides[:, 1].mean()),
        "pngs": pngs,
        "bytes_per_image": float(dataset.lengths().mean()),
        "beton": dataset.manifest.beton is not None,
        "image_size": config.data.image_size,
        "batch_size": config.train.batch_size,
        "recipe": describe_recipe(config.augment),
        "augment": config.augment.model_dump(mode="json"),
    }


def describe_recipe(recipe: AugmentConfig) -> str:
    """The recipe in one line."""
    parts = []
    if recipe.has_affine:
        low, high = recipe.zoom
        parts.append(f"rotation ±{recipe.rotation:g}°, shear ±{recipe.shear:g}°, zoom {low:g}–{high:g}")
    parts += [f"crop {recipe.crop_area[0]:g}–{recipe.crop_area[1]:g}", f"flip {recipe.flip:g}"]
    if recipe.jitter:
        strengths = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
        parts.append(f"jitter {'/'.join(f'{x:g}' for x in strengths)} (p {recipe.jitter:g})")
    for name in ("grey", "blur"):
        parts += [f"{name} {getattr(recipe, name):g}"] if getattr(recipe, name) else []
    return ", ".join(parts)
