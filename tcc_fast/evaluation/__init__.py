"""What came of a run.

`trained.py` opens it, `embed.py` asks it for features and assignments, `evaluate.py` compares them with classes
(`metrics.py`), `label_free.py` judges them without. `report.py` shows it, beside what `paper.py` has; `clusters.py`
writes which image is where, `sort.py` links to it, and `predict.py` tells other code.
"""
