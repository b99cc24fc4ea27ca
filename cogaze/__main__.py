"""`python -m cogaze` is the `cogaze` command."""

import sys

from cogaze.cli.main import run

if __name__ == "__main__":  # not in the workers of a process pool, which import this file again
    sys.exit(run())
