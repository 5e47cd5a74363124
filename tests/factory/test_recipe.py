from pathlib import Path

import pytest
import yaml

from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError
from hessgnn.factory.recipe import Recipe
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource

SHIPPED = Path("configs/data/rtp-mini.yaml")


def test_bundled_set_was_built_from_the_shipped_recipe():
    recipe = load(Recipe, find_resource(SHIPPED))
    provenance = yaml.safe_load(Store.open("rtp-mini").attributes.provenance)
    assert Recipe.model_validate(provenance["recipe"]) == recipe


@pytest.mark.parametrize("name", ["rtp-mini", "rtp-10k", "products", "dft-mini"])
def test_shipped_recipes_can_be_read(name):
    assert load(Recipe, find_resource(f"configs/data/{name}.yaml")).name == name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.stepp=0.1", "did you mean 'step'"),
        ("engine.step=0", "greater than 0"),
        ("engine.method=DFT", "GFN2-xTB"),
        ("displaced.frames={minimun: 2}", "no such kind of structure: minimun"),
        ("reactions.families=[adition]", "did you mean 'addition'"),
        ("path.guesses=[]", "at least 1"),
        ("displaced.frames=8", "dictionary"),
    ],
)
def test_mistakes_are_told(override, message):
    with pytest.raises(ConfigError, match=message):
        load(Recipe, find_resource(SHIPPED), [override])
