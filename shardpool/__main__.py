"""``python -m shardpool`` is the command line."""

import sys

from shardpool.cli import main

if __name__ == "__main__":
    sys.exit(main())
