"""Which parameters are trained: frozen ones, and low-rank updates of matrices (LoRA).

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022): a matrix W stays as it is, and ``W + (alpha
/ rank) B A`` takes its place, where A has few rows. Only A and B are trained. B starts at zero, so the first energies
are those of W.

The update is a parametrization (:mod:`torch.nn.utils.parametrize`): whoever reads a weight reads the sum. So it serves
every potential, closed-form derivatives too, which read weights and do not call layers. ``peft`` wraps layers instead,
which such potentials would not notice. What is saved for others is the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, cast

import torch
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hessgnn.errors import ConfigError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import Settings

Patterns = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Shell patterns of names of parameters; a single one may stand for itself."""


class LoraConfig(Settings):
    """Low-rank updates of matrices. All other parameters are frozen."""

    rank: PositiveInt = Field(default=8, description="rows of A, at most the smaller size of the matrix")
    alpha: PositiveFloat = Field(default=8.0, description="the update is multiplied by alpha / rank")
    match: Patterns = Field(default=("*",), description="names of the matrices, shell patterns such as '*.weight'")
    also_train: Patterns = Field(default=(), description="parameters that are trained as they are, such as '*.bias'")


class LowRank(nn.Module):
    """``W + (alpha / rank) B A`` for each block of a weight.

    Parameters
    ----------
    weight
        The weight.
    blocks
        Shapes of the matrices that lie one after the other in the weight.
    rank, alpha
        See :class:`LoraConfig`.
    """

    def __init__(self, weight: Tensor, blocks: Sequence[tuple[int, int]], rank: int, alpha: float) -> None:
        super().__init__()
        self.blocks, self.scaling = tuple(blocks), alpha / rank
        ranks = [min(rank, *block) for block in blocks]
        down = [weight.new_empty(r, n) for r, (_, n) in zip(ranks, blocks, strict=True)]
        up = [weight.new_zeros(m, r) for r, (m, _) in zip(ranks, blocks, strict=True)]
        self.down = nn.ParameterList(nn.init.kaiming_uniform_(a, a=math.sqrt(5)) for a in down)
        self.up = nn.ParameterList(up)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its update, same shape."""
        updates = [up @ down for up, down in zip(self.up, self.down, strict=True)]
        update = updates[0] if len(updates) == 1 else torch.cat([one.flatten() for one in updates])
        return torch.add(weight, update.view_as(weight), alpha=self.scaling)


def choose_trained(potential: Potential, freeze: Sequence[str], lora: LoraConfig | None) -> None:
    """Freeze parameters, and give matrices their low-rank updates.

    The matrices of A are drawn from torch's global generator.

    Parameters
    ----------
    potential
        Changed in place.
    freeze
        Patterns of the parameters that are not trained.
    lora
        Freezes all parameters but those that it names.

    Raises
    ------
    ConfigError
        When a pattern matches no parameter, or nothing is left to train.
    """
    parameters = {name: p for name, p in potential.named_parameters() if p.requires_grad}
    if lora is None:
        frozen = _matching(parameters, freeze, "training.freeze")
    else:
        kept = _matching(parameters, lora.also_train, "training.lora.also_train")
        frozen = parameters.keys() - kept
    for name in frozen:
        parameters[name].requires_grad_(False)
    if lora is not None:
        _add_factors(potential, lora, frozen)
    if not any(p.requires_grad for p in potential.parameters()):
        key, hint = "training.freeze", "match fewer of them"
        if lora is not None:
            key, hint = "training.lora.match", "name matrices, or leave it out to take all"
        raise ConfigError("all parameters are frozen", where=f"key {key!r}", hint=hint)


def _matching(parameters: Iterable[str], patterns: Sequence[str], key: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        own = {name for name in parameters if fnmatchcase(name, pattern)}
        if not own:
            raise ConfigError(f"no parameter matches {pattern!r}", where=f"key {key!r}", hint=some_names(parameters))
        found |= own
    return found


def _add_factors(potential: Potential, lora: LoraConfig, frozen: set[str]) -> None:
    matrices = {name: place for name, place in _matrices(potential) if name in frozen}
    where = "key 'training.lora.match'"
    if not matrices:
        raise ConfigError("this potential has no matrices for low-rank updates", where=where, hint="leave lora out")
    for pattern in lora.match:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            raise ConfigError(f"no matrix matches {pattern!r}", where=where, hint=some_names(matrices))
    for name, (module, own, blocks) in matrices.items():
        if any(fnmatchcase(name, pattern) for pattern in lora.match):
            weight = getattr(module, own)
            parametrize.register_parametrization(module, own, LowRank(weight, blocks, lora.rank, lora.alpha))


_Place = tuple[nn.Module, str, list[tuple[int, int]]]
"""Module and attribute of a weight, and the shapes of the matrices in it."""


def _matrices(potential: Potential) -> Iterator[tuple[str, _Place]]:
    """Names and places of all matrices.

    These are parameters with two axes, but for embeddings, and e3nn's linear layers, which keep a matrix for each pair
    of irreps in one row. A module inside TorchScript cannot be given another weight, and the class of the potential
    itself stays. A parameter that several modules share is left alone.
    """
    holders: dict[int, int] = {}
    for module in potential.modules():
        for parameter in module._parameters.values():
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for prefix, module in potential.named_modules():
        if module is potential or isinstance(module, nn.Embedding | torch.jit.ScriptModule):
            continue
        if parametrize.is_parametrized(module) or isinstance(module, parametrize.ParametrizationList):
            continue
        flat = _blocks_of_irreps(module)
        for own, parameter in module._parameters.items():
            if parameter is None or holders[id(parameter)] > 1 or not parameter.is_floating_point():
                continue
            if own == "weight" and flat is not None and parameter.numel() == sum(m * n for m, n in flat):
                yield f"{prefix}.{own}", (module, own, flat)
            elif parameter.ndim == 2:
                yield f"{prefix}.{own}", (module, own, [(parameter.shape[0], parameter.shape[1])])


def _blocks_of_irreps(module: nn.Module) -> list[tuple[int, int]] | None:
    """Shapes of the matrices in an ``e3nn.o3.Linear``, without importing e3nn for those who do not use it."""
    if (type(module).__module__, type(module).__name__) != ("e3nn.o3._linear", "Linear"):
        return None
    instructions = cast(Any, module).instructions
    # i_in is -1 for a bias; such an instruction has no matrix.
    return [one.path_shape for one in instructions if one.i_in >= 0] or None


def _updated(potential: nn.Module, *, every_name: bool = False) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and attribute of each weight with a low-rank update; of a shared module under each of its names."""
    for prefix, module in potential.named_modules(remove_duplicate=not every_name):
        if parametrize.is_parametrized(module):
            for own, chain in list(cast(nn.ModuleDict, module.parametrizations).items()):
                if isinstance(cast(nn.ModuleList, chain)[0], LowRank):
                    yield prefix, module, own


def updates(potential: nn.Module) -> dict[str, int]:
    """Name of each weight with a low-rank update -> parameters of the update."""
    found = {}
    for prefix, module, own in _updated(potential):
        factors = cast(Any, module.parametrizations)[own][0]
        found[f"{prefix}.{own}"] = sum(p.numel() for p in factors.parameters())
    return found


def merged_state(potential: Potential) -> dict[str, Tensor]:
    """State of the potential with updates added to their weights: that of the same potential without updates."""
    state = potential.state_dict()
    for prefix, module, own in _updated(potential, every_name=True):
        inner = f"{prefix}.parametrizations.{own}."
        for key in [key for key in state if key.startswith(inner)]:
            del state[key]
        state[f"{prefix}.{own}"] = getattr(module, own).detach()
    return state


def merge(potential: Potential) -> None:
    """Add the updates to their weights and remove them."""
    for _, module, own in list(_updated(potential)):
        parametrize.remove_parametrizations(module, own, leave_parametrized=True)


def public_name(parameter: str) -> str:
    """Name of a parameter for people: ``layer.weight.up.0`` instead of ``layer.parametrizations.weight.0.up.0``."""
    head, found, rest = parameter.partition(".parametrizations.")
    if not found:
        return parameter
    own, _, inner = rest.partition(".")
    return f"{head}.{own}.{inner.removeprefix('0.')}"


def some_names(names: Iterable[str], most: int = 4) -> str:
    """Name some parameters that a pattern could match, as a hint."""
    names = list(names)
    return f"the names are {', '.join(names[:most])}{', ...' if len(names) > most else ''}" if names else "leave it out"
