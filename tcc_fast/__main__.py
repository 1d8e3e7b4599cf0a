"""``python -m tcc_fast``, also what ``accelerate launch -m tcc_fast`` runs."""

from __future__ import annotations

import sys

from tcc_fast.cli import app
from tcc_fast.preemption import EXIT_CODE, Preempted


def main() -> None:
    """Run the command line. What a user can mend is printed in one line, without a traceback; exit code 1.
    A run that SIGTERM has stopped exits with 75, after writing a checkpoint."""
    try:
        app(prog_name="tcc-fast")
    except ValueError as error:
        print(f"tcc-fast: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"tcc-fast: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except Preempted as stop:
        print(f"tcc-fast: {stop}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        print("tcc-fast: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
