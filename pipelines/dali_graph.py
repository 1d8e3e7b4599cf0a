"""The graph of DALI's operators: one decode, two crops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcc_fast.views.resample import inverse_map
from tcc_fast.views.view_parameters import ViewParameters


def build_graph(
    batch_size: int, depth: int, threads: int, device: torch.device, image_size: int, has_affine: bool
) -> Any:
    """A `nvidia.dali.Pipeline`: one decode, two crops (B, S, S, 3) uint8 in the device's memory.

    Its sources, for each view v: ``encoded`` bytes, ``start_v`` and ``shape_v`` of the crop (y, x; pixels),
    ``flip_v`` and, with ``has_affine``, ``matrix_v`` of `inverse_affine`.
    """
    from nvidia.dali import Pipeline, fn, types

    def source(name: str, dtype: Any, ndim: int) -> Any:
        return fn.external_source(name=name, dtype=dtype, ndim=ndim)

    on_gpu = device.type == "cuda"
    device_id = (torch.cuda.current_device() if device.index is None else device.index) if on_gpu else None
    # The dynamic executor's outputs are owned by who holds them: no later run writes into them.
    graph = Pipeline(batch_size, threads, device_id, prefetch_queue_depth=depth, exec_dynamic=True)
    with graph:
        images = fn.decoders.image(
            look_first(source("encoded", types.UINT8, 1)),
            device="mixed" if on_gpu else "cpu",
            output_type=types.RGB,
            adjust_orientation=False,  # images are stored upright
            jpeg_fancy_upsampling=True,  # as the CPU does
            affine=False,  # else ranks on one machine would pin their threads to the same cores
        )
        crops = []
        for view in (1, 2):
            moved = images
            if has_affine:
                moved = fn.warp_affine(images, matrix=source(f"matrix_{view}", types.FLOAT, 2), fill_value=0.0)
            start, shape = (source(f"{name}_{view}", types.INT32, 1) for name in ("start", "shape"))
            cropped = fn.slice(moved, start=start, shape=shape, axes=[0, 1])
            resized = fn.resize(cropped, size=[image_size] * 2, interp_type=types.INTERP_LINEAR, antialias=True)
            crops.append(fn.flip(resized, horizontal=source(f"flip_{view}", types.INT32, 0)))
        graph.set_outputs(*crops)
    graph.build()
    return graph


def look_first(encoded: Any) -> Any:
    """The same bytes, once DALI has read the sizes of all images from them.

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
