"""The two-view recipe as functions on a whole batch: the reference of every pipeline.

`view_parameters.py` draws what happens to each view (`numbers.py` says which number means what), `augment.py` does it,
by `resample.py` (what moves pixels) and `colour.py` (what changes them).
"""
