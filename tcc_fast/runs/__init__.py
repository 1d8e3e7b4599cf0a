"""What a run leaves on disk, and how it goes on from there.

`run_state.py` and `training_tensors.py` are what a checkpoint holds, `checkpoint.py` writes and reads it (its tensors
by `tensor_file.py`), `checkpoint_folder.py` finds it; `same_run.py` says whether a run may continue from it, and
`first_weights.py` begins another one with its weights. `run_files.py` is there from the first moment on, `run_lock.py`
keeps two runs out of one folder, `seeds_folder.py` knows a folder of several, and `preemption.py` hears SIGTERM and
Ctrl-C.
"""
