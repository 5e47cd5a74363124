"""SchNet and PaiNN of the package ``schnetpack``, built there or read from a saved model."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig, AdaptedPotential, ForeignModel
from hessgnn.potentials.adapters.building import BuiltConfig, build
from hessgnn.potentials.adapters.files import explained, find_weights, foreign
from hessgnn.potentials.base import register

_READ_OUT = ("Atomwise", "Aggregation", "ZBLRepulsionEnergy")
"""Output modules whose energies are sums over atoms. Those that compute derivatives are left out."""

SMOOTH = 1e-3
"""PaiNN takes norms as √(v² + epsilon). With its own default, 1e-8, the curvature of a linear molecule is right only as
long as no atom moves by more than some 1e-4 Å. New models take this epsilon unless the settings name another one."""


@register("schnetpack")
class SchNetPack(AdaptedPotential):
    """Energies of a ``NeuralNetworkPotential``; hessgnn takes the derivatives."""

    class Config(BuiltConfig):
        """A representation with an ``Atomwise`` read-out, or the file of a saved model, or of its state dict."""

        representation: Literal["SchNet", "PaiNN"] = "PaiNN"
        cutoff_function: Literal["CosineCutoff", "MollifierCutoff"] = Field(
            default="MollifierCutoff", description="the cosine has a jump in its second derivative"
        )
        basis: Literal["GaussianRBF", "BesselRBF"] = "GaussianRBF"
        n_basis: PositiveInt = 20
        energy_key: str = Field(default="energy", description="name of the energy among the outputs of a saved model")
        energy_unit: str = Field(default="eV", description="of a saved model, whose lengths must be in Å")

    package = "schnetpack"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_hops = len(self.model.representation.interactions)
        self.unit = _unit(config)
        if any(type(part).__name__ == "CosineCutoff" for part in self.model.modules()):
            self.not_c2 = "SchNetPack's cosine cutoff has a jump in its second derivative"
        epsilon = min((getattr(part, "epsilon", SMOOTH) for part in self.model.modules()), default=SMOOTH)
        if epsilon < SMOOTH:
            why = f"norms of features are rounded by epsilon = {epsilon:g} only, so curvature at symmetry is a needle"
            self.excused = {"axes": why}

    @classmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """See :meth:`AdaptedPotential.load_model`."""
        assert isinstance(config, cls.Config)
        # SchNetPack 2.1 imports this name for an annotation; torch 2.13 no longer has it.
        if not hasattr(torch.utils.data.dataloader, "T_co"):
            torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]
        # Theirs is TorchScript, which breaks batched derivatives.
        foreign(
            "schnetpack.nn.scatter", package="schnetpack", extra="schnetpack", pins="sympy 1.12"
        )._scatter_add = _scatter_add
        file = None if config.weights is None else find_weights(config.weights, package="schnetpack")
        content: Any = None if file is None else file.load(trust=config.trust)
        module = content if isinstance(content, nn.Module) else build(lambda _: _new(config), config.representation)
        if file is not None and module is not content:
            with explained(file.path):
                module.load_state_dict(content)
        elif file is not None and not config.elements:
            what = "a saved model of SchNetPack does not say which elements it was trained on"
            raise ConfigError(what, where="key 'potential.elements'", hint="list them, for example [1, 6, 7, 8]")
        return ForeignModel(module, config.new_elements, _check(module, config), file, _references(module, config))

    def atomic_energies(self, batch: Batch) -> Tensor:
        """See :meth:`~hessgnn.potentials.base.Potential.atomic_energies`."""
        self.species(batch)  # refuses elements that the potential does not know
        i, j = batch.edge_index
        out: dict[str, Any] = {
            "_atomic_numbers": batch.numbers,
            "_positions": batch.positions,
            "_idx_i": i,
            "_idx_j": j,
            "_Rij": batch.edge_vectors(),
            # To the read-out, each atom is a structure of its own.
            "_n_atoms": torch.ones_like(batch.numbers),
            "_idx_m": torch.arange(len(batch.numbers), device=batch.numbers.device),
        }
        read_out = [part for part in self.model.output_modules if type(part).__name__ in _READ_OUT]
        for part in (self.model.representation, *read_out, *self.model.postprocessors):
            out = part(out)
        return self.unit * out[self.config.energy_key].to(batch.positions.dtype)


def _new(config: SchNetPack.Config) -> Any:
    from schnetpack import atomistic, model, representation
    from schnetpack import nn as parts

    cutoff = config.cutoff or 5.0
    smoother = {"epsilon": SMOOTH} if (config.representation, config.weights) == ("PaiNN", None) else {}
    core = getattr(representation, config.representation)(
        radial_basis=getattr(parts, config.basis)(n_rbf=config.n_basis, cutoff=cutoff),
        cutoff_fn=getattr(parts, config.cutoff_function)(cutoff),
        **{"n_atom_basis": 64, "n_interactions": 3, **smoother, **config.settings},
    )
    read_out = atomistic.Atomwise(n_in=core.n_atom_basis, output_key=config.energy_key)
    return model.NeuralNetworkPotential(core, [atomistic.PairwiseDistances()], [read_out])


def _unit(config: SchNetPack.Config) -> float:
    from schnetpack.units import convert_units

    try:
        return float(convert_units(config.energy_unit, "eV"))
    except Exception as error:  # it raises whatever ase.units makes it raise
        hint = "name one of ase.units, such as eV, Ha, kcal/mol"
        raise ConfigError(f"no unit {config.energy_unit!r}", where="key 'potential.energy_unit'", hint=hint) from error


def _check(module: Any, config: SchNetPack.Config) -> float:
    """The cutoff of a model whose energy is a sum over atoms; :class:`ConfigError` for others."""
    where = config.weights
    core: Any = getattr(module, "representation", None)
    if type(core).__name__ not in ("SchNet", "PaiNN", "SO3net"):
        raise ConfigError(f"is no SchNet, PaiNN or SO3net, but a {type(core).__name__}", where=where)
    if unknown := {type(p).__name__ for p in module.input_modules} - {"PairwiseDistances", "Strain"}:
        raise ConfigError(f"cannot give its inputs ({', '.join(unknown)})", where=where)
    if len(core.electronic_embeddings):
        raise ConfigError("depends on total charges or spins, which structures do not have", where=where)
    read_out = [part for part in module.output_modules if type(part).__name__ in _READ_OUT]
    long_range = [
        type(p).__name__ for p in module.output_modules if type(p).__name__.startswith(("EnergyC", "EnergyE"))
    ]
    if long_range or any(getattr(part, "aggregation_mode", "sum") != "sum" for part in read_out):
        raise ConfigError("its energy is no sum over atoms with neighbours", where=where)
    if not any(getattr(part, "output_key", None) == config.energy_key for part in read_out):
        hint = f"its outputs are {', '.join(module.model_outputs)}"
        raise ConfigError(f"has no energy {config.energy_key!r}", where="key 'potential.energy_key'", hint=hint)
    return float(core.cutoff)


def _references(module: Any, config: SchNetPack.Config) -> dict[int, float]:
    """Take the energies of free atoms out of a model: eV, by atomic number."""
    energies = dict.fromkeys(config.new_elements, 0.0)
    for part in module.postprocessors:
        if type(part).__name__ == "AddOffsets":
            for z in energies:
                atom = part.add_atomrefs * float(part.atomref[z]) + part.add_mean * float(part.mean)
                energies[z] += _unit(config) * atom
            part.atomref.zero_()
            part.mean.zero_()
    return energies


def _scatter_add(x: Tensor, idx_i: Tensor, dim_size: int, dim: int = 0) -> Tensor:
    shape = [*x.shape]
    shape[dim] = dim_size
    return x.new_zeros(shape).index_add(dim, idx_i, x)
