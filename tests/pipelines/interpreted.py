"""TRITON_INTERPRET=1 python interpreted.py CASES VIEWS: views by the kernels of a GPU, taken as numpy.

A process of its own, since whether functions are interpreted is decided when Triton is imported. CASES holds arguments
of `Finish` and of its call, by name, VIEWS what they make.
"""

from __future__ import annotations

import sys
import warnings

import torch

from tcc_fast.pipelines.cuda.finish import Finish

if __name__ == "__main__":
    warnings.simplefilter("error")
    given = torch.load(sys.argv[1], weights_only=False)
    torch.save({name: Finish(*settings)(*views) for name, (settings, views) in given.items()}, sys.argv[2])
