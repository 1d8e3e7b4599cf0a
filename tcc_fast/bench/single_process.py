"""What a step needs of Accelerate, for one process."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class SingleProcess:
    """A `tcc_fast.method.step.Engine`."""

    def backward(self, loss: Tensor) -> None:
        """The backward pass."""
        loss.backward()  # type: ignore[no-untyped-call]

    def unwrap_model(self, model: nn.Module) -> Any:
        """θ itself: nothing is wrapped."""
        return model
