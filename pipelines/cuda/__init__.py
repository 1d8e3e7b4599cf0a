"""What finishes views on a GPU: two Triton kernels, as the rest of a view is left to torch.compile.

`tcc_fast.views.augment.finish` is their reference. A compiler cannot know that all pixels of a view go the same way, so
of what it writes for it, every pixel computes every order of the jitter's parts, and chooses afterwards. A kernel asks
once for each view, and computes the parts that this view has, in its order.

`colour.py` jitter, grey, normalise · `blur.py` what is blurred · `finish.py` starts both for a batch.
"""
