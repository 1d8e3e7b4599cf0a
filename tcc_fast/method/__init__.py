"""Twin-contrast clustering itself.

From the bottom: `assign.py` (3) and (4), `losses.py` (5) to (9), `encoder.py`, `own_encoder.py` (one of the user's)
and `model.py` (θ and θ̂), `batch_norm.py` (over all ranks; in plain tensor work: `batch_norm_kernels.py`),
`max_pool.py` (for compiled steps on a GPU; its Triton: `max_pool_kernels.py`),
`queues.py` (P and Q), `sharded.py` (the contrast against the shards of Q), `start.py` (where μ may begin, by the
graph of `neighbour_graph.py`), `optim.py`. `step.py` puts them together as Algorithm 1 does, and `compiled_step.py`
does the same in compiled pieces.
"""
