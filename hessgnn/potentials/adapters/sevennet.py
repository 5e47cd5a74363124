"""SevenNet of the package ``sevenn``: equivariant message passing in the manner of NequIP, scaled up.

Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024). The wheel holds SevenNet-0 and others, trained on PBE.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig, AdaptedPotential, ForeignModel
from hessgnn.potentials.adapters.files import explained, find_weights, foreign, quiet
from hessgnn.potentials.base import register
from hessgnn.potentials.blocks.couplings import replace_products
from hessgnn.potentials.nequip.model import eager_e3nn

_PUBLISHED = {
    "SevenNet-0": "SEVENNET_0_11Jul2024",
    "SevenNet-0_22May2024": "SEVENNET_0_22May2024",
    "SevenNet-l3i5": "SEVENNET_l3i5",
    "SevenNet-MF-0": "SEVENNET_MF_0",
}
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ARRAYS = [
    *(np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilBHILfd")),
    *((_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),  # before and after 2.0
]
"""What checkpoints hold beside tensors: arrays of numbers."""


@register("sevennet")
class SevenNet(AdaptedPotential):
    """SevenNet (package sevenn): SevenNet-0 and other weights of the package, or a checkpoint of your own."""

    class Config(AdaptedConfig):
        """Which weights, and which level of theory where they know several."""

        weights: str = Field(default="SevenNet-0", description=f"{', '.join(_PUBLISHED)}, or a checkpoint file")
        modal: str | None = Field(default=None, description="level of theory, for weights that know several")

    package = "sevenn"
    config: Config
    products_at_once = 1
    model: Any

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_hops = sum(name.endswith("_convolution") for name, _ in self.model.named_children())
        embedding = self.model.edge_embedding
        onset = getattr(embedding.cutoff_function, "r_on", None)
        if onset is not None:
            self.not_c2 = f"the XPLOR cutoff function has a jump in its second derivative at its onset, {onset:g} Å"
        if all(irrep.p == 1 for _, irrep in embedding.spherical.irreps_out):
            self.excused = {"reflection": "the network was built without parity (is_parity: false)"}

    @classmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """See :meth:`AdaptedPotential.load_model`."""
        assert isinstance(config, cls.Config)
        names = foreign("sevenn._const", package="sevenn", extra="sevennet")
        published = {name: getattr(names, constant) for name, constant in _PUBLISHED.items()}
        published |= {name.replace("SevenNet", "7net"): path for name, path in published.items()}  # as the package
        file = find_weights(config.weights, package="sevenn", published=published)
        content = file.load(trust=config.trust, allowed=_ARRAYS)
        if not (isinstance(content, dict) and {"config", "model_state_dict"} <= content.keys()):
            raise ConfigError("is not a SevenNet checkpoint", where=file.path, hint="give a file saved by sevenn")
        modals = sorted(content["config"].get("_modal_map") or {})
        if config.modal not in (modals or [None]):
            known, hint = f"knows {', '.join(modals)}", "name one of them"
            if not modals:
                known, hint = "has a single level of theory", "leave it out"
            raise ConfigError(f"{config.weights} {known}", where="key 'potential.modal'", hint=hint)
        util = foreign("sevenn.util", package="sevenn", extra="sevennet")
        # Theirs reads the file as any pickle: the content that was found to hold nothing but tensors and numbers.
        with explained(file.path), quiet(), eager_e3nn(), file.private_copy() as copy:
            model = util.load_checkpoint(copy).build_model()
        replace_products(model)
        for unneeded in ("reduce_total_enegy", "force_output"):
            model.delete_module_by_key(unneeded)
        model.set_is_batch_data(True)
        return ForeignModel(model, tuple(model.type_map), float(model.cutoff), file)

    def atomic_energies(self, batch: Batch) -> Tensor:
        """See :meth:`~hessgnn.potentials.base.Potential.atomic_energies`."""
        self.species(batch)  # refuses elements that the potential does not know
        vectors, model = batch.edge_vectors(), self.model
        data = {
            "x": model.z_to_onehot_tensor.to(vectors.device)[batch.numbers],
            "edge_vec": vectors,
            "edge_index": batch.edge_index,
            "batch": batch.batch,
        }
        if self.config.modal is not None:
            data["modal_type"] = batch.n_atoms.new_full((batch.n_structures,), model.modal_map[self.config.modal])
        for module in model:
            data = module(data)
            # One-hot vectors are made in float32, whatever the type of the model.
            data = {key: value.to(vectors.dtype) if value.is_floating_point() else value for key, value in data.items()}
        return data["atomic_energy"].squeeze(-1)
