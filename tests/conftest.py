import hessgnn  # noqa: F401  # isort: skip  # before torch, whose threads would wait busily otherwise
import multiprocessing.forkserver
from multiprocessing import context

import torch

# One thread for each pytest-xdist worker: more of them only fight over the cores.
torch.set_num_threads(1)


def pytest_configure(config):
    # torch 2.13 deprecates TorchScript, which e3nn, torchani and torch-geometric use while they are imported.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit:DeprecationWarning")
    _share_one_server()


def _share_one_server():
    """Fork the children of all tests from one server that has imported torch: a new interpreter takes seconds.

    They are given the same pickles as a spawned interpreter. Tests of spawning itself start an interpreter of their own.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return
    multiprocessing.set_forkserver_preload([*_PRELOAD])
    multiprocessing.forkserver.set_forkserver_preload = lambda _: None  # or the first pool would decide
    context._concrete_contexts["spawn"] = context._concrete_contexts["forkserver"]


_PRELOAD = ("pytest", "hessgnn.experiments.job", "hessgnn.evaluation.tasks.subjects", "hessgnn.factory.build")
