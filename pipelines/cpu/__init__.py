"""The two-view recipe as one compiled pass over each image, for CPUs.

`tcc_fast.views.augment` works on a whole batch, one operation after the other, and every operation goes through memory.
Here a thread takes one image and makes both its views while they are in its cache: draw, crop, flip, colours,
normalise, write. numba compiles it to vector instructions; it holds no lock of Python's, so plain threads share a
batch. The results are those of `tcc_fast.views.augment`, which the tests hold it to.

`draw.py` what happens to a view · `place.py` what moves pixels, of sums along y (`blend.py`) and along x (`mix.py`) ·
`colour.py` what changes colours · `blur.py` · `views.py` one view, and a part of a batch · `maker.py` a whole batch,
with its `threads.py` and its `buffers.py` · `compile.py` how numba is told to compile all that.
"""
