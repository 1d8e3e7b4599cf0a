"""An encoder of the user's: ``model.backbone=MODULE:FUNCTION``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tcc_fast.settings import ModelConfig


def build_own_encoder(config: ModelConfig) -> nn.Module:
    """What the function that ``config.backbone`` names returns for ``feature_dim=``.

    Raises:
        ValueError: there is no such module or function, or what it returns is no module of torch.
    """
    name, _, function = config.backbone.partition(":")
    module = _import(name, config.backbone)
    make: Callable[..., Any] | None = getattr(module, function, None)
    where = getattr(module, "__file__", None) or f"module {name}"
    if not callable(make):
        raise ValueError(f"model.backbone={config.backbone}: {where} has no function {function!r}")
    if not _takes_feature_dim(make):
        raise ValueError(
            f"model.backbone={config.backbone}: it is called as {function}(feature_dim={config.feature_dim}), "
            f"which the function in {where} does not take"
        )
    encoder = make(feature_dim=config.feature_dim)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"model.backbone={config.backbone}: it returned {type(encoder).__name__}, but must return a torch.nn.Module"
        )
    return encoder


def _takes_feature_dim(make: Callable[..., Any]) -> bool:
    try:
        inspect.signature(make).bind(feature_dim=2)
    except TypeError:
        return False
    except ValueError:  # it does not say what it takes
        pass
    return True


def _import(name: str, backbone: str) -> ModuleType:
    """A module that is installed, or one in the current folder, which only ``python -m`` looks into by itself."""
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)  # last: it hides nothing that is installed
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not f"{name}.".startswith(f"{missing}."):
            raise ValueError(f"model.backbone={backbone}: {name} needs {missing}, which is not installed") from None
        raise ValueError(
            f"model.backbone={backbone}: no module {missing!r} is installed or in {here}: start from the folder "
            f"that holds {missing.replace('.', '/')}.py, or set PYTHONPATH to it"
        ) from None
    finally:
        if added:
            sys.path.remove(here)


@torch.no_grad()
def check_encoder(encoder: nn.Module, config: ModelConfig, image_size: int) -> None:
    """Run an encoder once as it will be run, in evaluation mode.

    Raises:
        ValueError: it cannot take (2, 3, S, S), or returns something else than (2, d), or has nothing to train, or a
            tensor under two names, of which a checkpoint in safetensors knows one.
    """
    training = encoder.training
    views = torch.zeros(2, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    try:
        features = encoder.eval()(views)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"model.backbone={config.backbone} cannot take views of data.image_size={image_size}, "
            f"{tuple(views.shape)}: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    finally:
        encoder.train(training)
    wanted = (2, config.feature_dim)
    found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    if found != wanted:
        raise ValueError(
            f"model.backbone={config.backbone} makes {found} of views {tuple(views.shape)}, but must make {wanted}, "
            "f of each: end it with pooling and a linear layer of feature_dim outputs"
        )
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ValueError(
            f"model.backbone={config.backbone} has no parameter that is trained: let some require gradients"
        )
    names: dict[int, str] = {}
    for name, tensor in encoder.state_dict().items():
        if tensor.numel() and (other := names.setdefault(tensor.untyped_storage().data_ptr(), name)) != name:
            raise ValueError(
                f"model.backbone={config.backbone}: {other} and {name} are one tensor, which a checkpoint cannot hold: "
                "register it once"
            )
