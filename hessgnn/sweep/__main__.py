"""``python -m hessgnn.sweep``: the main job."""

from hessgnn.runtime.terminal import main
from hessgnn.sweep.command import app

if __name__ == "__main__":  # worker processes import this module again
    main(app)
