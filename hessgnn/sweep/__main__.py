"""``python -m hessgnn.sweep``: the main job."""

from hessgnn.cli import main, sweep_app

if __name__ == "__main__":  # worker processes import this module again
    main(sweep_app)
