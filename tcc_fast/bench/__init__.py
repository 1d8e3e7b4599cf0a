"""`tcc-fast bench`: how fast pipelines make views of the user's own images, and where the time of a step goes.

All contenders are opened and warmed up; then they take turns in rounds, so that whatever else happens on the machine
meets all of them, and are compared within a round. A fixed piece of work before and after each turn tells whether the
machine was itself; a disturbed turn is repeated.

`comparison.py` all of it · `rounds.py` the turns · `calibrate.py` and `idle.py` when they may be · `summary.py` medians
and ratios · `machine.py` what on · `show.py`, `show_step.py` and `plot.py` for people.

`bench pipelines`: `contenders.py` what is measured, `decoding.py` the ceiling.

`bench step`: `step.py` all of it · `stepping.py` the step as a contender, for one process (`single_process.py`) ·
`plain.py` what it is compared with · `parts.py` its pieces · `roofline.py` what the device allows.

For the report of a GPU: `verify.py` whether what was tuned is right, `own_kernels.py` our kernels, `one_rank.py`
also with collectives · `queue_cost.py` what a long Q costs.
"""

from tcc_fast.bench.comparison import check_options, compare
from tcc_fast.bench.contenders import BASELINE, DECODE, PIPELINES, Task, openers
from tcc_fast.bench.rounds import Source
from tcc_fast.bench.summary import summarise

__all__ = ["BASELINE", "DECODE", "PIPELINES", "Source", "Task", "check_options", "compare", "openers", "summarise"]
