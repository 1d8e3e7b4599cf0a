"""What finishes views on a GPU: two Triton kernels, as the rest of a view is left to torch.compile.

`tcc_fast.views.augment.finish` is their reference. A compiler cannot know that all pixels of a view go the same way, so
in what it writes, every pixel computes each part of the jitter in each place that it may have, and chooses afterwards.
A kernel asks once for each view, and computes the parts that this view has, in its order.

`colour.py` jitter, grey, normalise · `blur.py` what is blurred · `finish.py` starts both for a batch.
"""
