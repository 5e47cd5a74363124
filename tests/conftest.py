import gc
import os
import tempfile

# One thread for each pytest-xdist worker and its children, before any library asks: more only fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hessgnn  # noqa: F401  # isort: skip  # before torch, whose threads would wait busily otherwise
import multiprocessing.forkserver
from multiprocessing import context

import torch

torch.set_num_threads(1)

PRELOAD = ("pytest", "hessgnn.experiments.job", "hessgnn.evaluation.tasks.subjects", "hessgnn.factory.build")


def pytest_configure(config):
    # torch 2.13 deprecates TorchScript, which e3nn, torchani and torch-geometric use while they are imported.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit:DeprecationWarning")
    share_one_server()
    keep_settings_apart(config)


def keep_settings_apart(config):
    """Keep the user's own settings out of the tests, and the tests out of these."""
    folder = tempfile.TemporaryDirectory(prefix="hessgnn-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["XDG_CONFIG_HOME"] = folder.name


def pytest_collection_finish():
    """What was imported stays: no need that the garbage collector looks through it again and again."""
    gc.collect()
    gc.freeze()


def share_one_server():
    """Fork all children of this process from one server that has imported torch: a new interpreter takes seconds.

    Children are given what a spawned interpreter is given. Tests of spawning itself run a script in a new interpreter.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(list(PRELOAD))
        multiprocessing.forkserver.set_forkserver_preload = lambda _: None  # otherwise the first pool decides
        context._concrete_contexts["spawn"] = context._concrete_contexts["forkserver"]
