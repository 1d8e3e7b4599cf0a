"""``python -m tcc_fast``, also what ``accelerate launch -m tcc_fast`` runs."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings

from tcc_fast.cli import app
from tcc_fast.datasets.escape import escape_name
from tcc_fast.notice import Notice
from tcc_fast.runs.preemption import EXIT_CODES, Preempted

PYTHONS_FORMAT = warnings.formatwarning


def main() -> None:
    """Run the command line. What a user can mend is printed in one line, without a traceback; exit code 1.
    A run that was stopped, which then has written a checkpoint, exits with one of
    `tcc_fast.runs.preemption.EXIT_CODES`."""
    warnings.formatwarning = _format_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where π cannot be written, its number is
    code = _run()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # At once: a thread of gloo that still held a tensor would abort a process that Python is about to leave.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    """The exit code of the command."""
    try:
        app(prog_name="tcc-fast")
    except SystemExit as end:  # how commands end, also good ones
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ValueError as error:
        if not _main_says_it(error):
            _say(str(error))
        return 1
    except OSError as error:
        file = error.filename2 or error.filename  # the second is where a link was to be
        where = f"{escape_name(os.fsdecode(file))}: " if isinstance(file, str | bytes | os.PathLike) else ""
        _say(f"{where}{error.strerror or error}")
        return 1
    except Preempted as stop:
        _say(str(stop))
        return EXIT_CODES[stop.by]
    except Exception as error:
        advice = _advice(error)
        if advice is None:
            raise
        _say(advice)
        return 1
    return 0


def _advice(error: Exception) -> str | None:
    """What can be done about an error, or None."""
    if _lacks_memory(error):
        return f"out of memory ({_first_line(error)}): {LESS}"
    if "no kernel image is available" in str(error):
        return f"torch cannot use this GPU ({_first_line(error)}): {OTHER_TORCH}"
    if any(kind.__module__.startswith(COMPILERS) for kind in type(error).__mro__) or _is_of_triton(error):
        traceback.print_exception(error)  # for who mends the compiler
        return f"compiling failed ({type(error).__name__}): {UNCOMPILED}"
    return None


LESS = (
    "try a smaller train.batch_size, data.image_size, queue.instance_length or model.feature_dim, "
    "loss.symmetric=false, or a stored set of smaller images (convert --short-side)"
)
"""What takes memory."""
OTHER_TORCH = (
    "install a torch that is built for its generation (an old one wants an older CUDA), or use the CPU "
    "(ACCELERATE_USE_CPU=true)"
)
"""Where torch has no code for the GPU."""
UNCOMPILED = (
    "with train.compile=off the same is computed, slower; a run that has checkpoints goes on by --resume RUN "
    "train.compile=off"
)
"""Where steps or views cannot be compiled."""
COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


def _is_of_triton(error: Exception) -> bool:
    """Whether Triton is missing, or an error came through it: what it lacks (a C compiler, say), it says in others'."""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return (isinstance(error, ImportError) and error.name == "triton") or any(
        name.partition(".")[0] == "triton" for name in frames
    )


def _lacks_memory(error: Exception) -> bool:
    """Whether memory ran out; torch has a class for that on GPUs only, on a CPU it is one of many RuntimeErrors."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """The text of a warning: ours without the line of code, which is of no use to users; those of libraries as ever."""
    if issubclass(category, Notice):
        return f"tcc-fast: warning: {message}\n"
    return PYTHONS_FORMAT(message, category, filename, lineno, line)


def _main_says_it(error: ValueError) -> bool:
    """Whether the main rank prints the same error."""
    if os.environ.get("RANK", "0") == "0":
        return False
    from tcc_fast.distributed import RaisedOnMain  # takes seconds, but not where there are several ranks

    return isinstance(error, RaisedOnMain)


def _say(sentence: str) -> None:
    """Print what stopped this rank, also if it is not the main one: it may be its own trouble."""
    rank = os.environ.get("RANK", "0")
    with contextlib.suppress(OSError):  # the terminal is gone
        print(f"tcc-fast{'' if rank == '0' else f' (rank {rank})'}: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
