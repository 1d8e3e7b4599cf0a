"""``python -m tcc_fast``, also what ``accelerate launch -m tcc_fast`` runs."""

from __future__ import annotations

import os
import sys

from tcc_fast.cli import app
from tcc_fast.preemption import EXIT_CODES, Preempted


def main() -> None:
    """Run the command line. What a user can mend is printed in one line, without a traceback; exit code 1.
    A run that SIGTERM has stopped exits with 75, one that Ctrl-C has with 130, both after writing a checkpoint."""
    try:
        app(prog_name="tcc-fast")
    except ValueError as error:
        if not _main_says_it(error):
            _say(str(error))
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}")
        sys.exit(1)
    except Preempted as stop:
        _say(str(stop))
        sys.exit(EXIT_CODES[stop.by])
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)


def _main_says_it(error: ValueError) -> bool:
    """Whether the main rank prints the same."""
    if os.environ.get("RANK", "0") == "0":
        return False
    from tcc_fast.distributed import RaisedOnMain  # takes seconds, but not where there are several ranks

    return isinstance(error, RaisedOnMain)


def _say(sentence: str) -> None:
    """Also ranks that are not the main one say what stopped them: it may be their own trouble."""
    rank = os.environ.get("RANK", "0")
    print(f"tcc-fast{'' if rank == '0' else f' (rank {rank})'}: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
