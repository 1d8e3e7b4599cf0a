"""What a user can mend, in one line instead of a traceback. For the other tools."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plainly() -> Iterator[None]:
    """Around a tool's main function: a file that is missing or wrong ends it with a sentence, and exit code 1."""
    try:
        yield
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
