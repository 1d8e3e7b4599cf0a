"""`tcc-fast` where no file of the second process may grow beyond 4 kB, as if its disk were full."""

from __future__ import annotations

import os
import resource

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
    from tcc_fast.__main__ import main

    main()
