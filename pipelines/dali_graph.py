"""The graph of DALI's operators: one decode, and two crops if it is to cut them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcc_fast.views.resample import inverse_map
from tcc_fast.views.view_parameters import ViewParameters


def build_graph(
    batch_size: int, depth: int, threads: int, device: torch.device, image_size: int | None, has_affine: bool
) -> Any:
    """A `nvidia.dali.Pipeline`: one decode, two crops (B, S, S, 3) uint8 in the device's memory.

    Without an image size S: the decoded images, each at its own size.

    Its sources: ``encoded`` bytes, and for each view v that it cuts, ``start_v`` and ``shape_v`` of the crop (y, x;
    pixels), ``flip_v`` and, with ``has_affine``, ``matrix_v`` of `inverse_affine`.
    """
    from nvidia.dali import Pipeline, types

    # The dynamic executor's outputs are owned by who holds them: no later run writes into them.
    graph = Pipeline(batch_size, threads, device_number(device), prefetch_queue_depth=depth, exec_dynamic=True)
    with graph:
        images = decoded(_source("encoded", types.UINT8, 1), device)
        if image_size is None:
            graph.set_outputs(images)
        else:
            graph.set_outputs(*(_cut(images, view, image_size, has_affine) for view in (1, 2)))
    graph.build()
    return graph


def _source(name: str, dtype: Any, ndim: int) -> Any:
    from nvidia.dali import fn

    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


def _cut(images: Any, view: int, image_size: int, has_affine: bool) -> Any:
    """A view's crop of each image."""
    from nvidia.dali import fn, types

    if has_affine:
        images = fn.warp_affine(images, matrix=_source(f"matrix_{view}", types.FLOAT, 2), fill_value=0.0)
    start, shape = (_source(f"{name}_{view}", types.INT32, 1) for name in ("start", "shape"))
    cropped = fn.slice(images, start=start, shape=shape, axes=[0, 1])
    resized = fn.resize(cropped, size=[image_size] * 2, interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.flip(resized, horizontal=_source(f"flip_{view}", types.INT32, 0))


def device_number(device: torch.device) -> int | None:
    """What DALI calls the device; None: the CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def decoded(encoded: Any, device: torch.device) -> Any:
    """RGB images of encoded ones, on the device."""
    from nvidia.dali import fn, types

    return fn.decoders.image(
        look_first(encoded),
        device="mixed" if device.type == "cuda" else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,  # images are stored upright
        jpeg_fancy_upsampling=True,  # as the CPU does
        affine=False,  # else ranks on one machine would pin their threads to the same cores
    )


def look_first(encoded: Any) -> Any:
    """The same encoded images, once DALI has read the sizes of all images from them.

    Where it cannot, it says so. Its decoder would say so too, but while some of its threads are still at work on other
    images of the batch, whose memory is then gone: the process crashes.
    """
    from nvidia.dali import fn, types

    nothing = fn.slice(fn.peek_image_shape(encoded), 0, 0, axes=[0])  # its 0 numbers make the decoder wait
    return fn.cat(encoded, fn.cast(nothing, dtype=types.UINT8))


def inverse_affine(parameters: ViewParameters, heights: Tensor, widths: Tensor) -> Tensor:
    """`resample.affine` as matrices: (B, 2, 3) from the pixels (x, y, 1) of a view to those of its image.

    (0, 0) is the corner of the first pixel, not its centre. ``heights`` and ``widths`` are (B,), in pixels.
    """
    linear = inverse_map(parameters.angle, parameters.shear, parameters.zoom)
    centre = torch.stack([widths, heights], dim=1).unsqueeze(2) / 2
    return torch.cat([linear, centre - linear @ centre], dim=2)


def outputs(graph: Any, device: torch.device) -> list[Tensor]:
    """Wait for a run; its outputs as tensors, without a copy. On CUDA only torch's current stream waits for them."""
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    return [torch.from_dlpack(output.as_tensor()) for output in graph.outputs(stream)]


def whole_images(graph: Any) -> list[NDArray[np.uint8]]:
    """Wait for a run of a graph on the CPU without an image size; its (H, W, 3) images, without a copy."""
    (images,) = graph.outputs()
    return [np.asarray(image) for image in images]
