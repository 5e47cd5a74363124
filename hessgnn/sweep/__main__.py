"""``python -m hessgnn.sweep``: the main job."""

import sys

from hessgnn.cli import main

if __name__ == "__main__":  # worker processes import this module again
    main(["sweep", *sys.argv[1:]])
