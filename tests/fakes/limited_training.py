"""The training child with little address space: real allocations fail once it has taken its fixed share."""

import resource
import sys
from pathlib import Path

from services.training.lora.run import main

_MORE_BYTES = 1 << 30


def limit() -> None:
    """From here on at most a gibibyte more than what the libraries have mapped."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _MORE_BYTES, mapped + _MORE_BYTES))


if __name__ == "__main__":
    limit()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
