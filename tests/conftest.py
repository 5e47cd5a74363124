import hessgnn  # noqa: F401  # isort: skip  # before torch, whose threads would wait busily otherwise
import torch

# One thread for each pytest-xdist worker: more of them only fight over the cores.
torch.set_num_threads(1)


def pytest_configure(config):
    # torch 2.13 deprecates TorchScript, which e3nn, torchani and torch-geometric use while they are imported.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit:DeprecationWarning")
