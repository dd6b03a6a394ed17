"""A class of one's own that is misspelt is told with the nearest name."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from lightning_compress.commands.targets import require_target
from lightning_compress.errors import ConfigurationError


@pytest.fixture(autouse=True)
def own_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_shop.py").write_text("class LitTagger:\n    class Inner:\n        pass\n")
    (tmp_path / "own_broken.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "photos.py").write_text("class Photos:\n    pass\n")


def looked_for(target: str) -> None:
    require_target(OmegaConf.create({"_target_": target, "width": 3}), "recipe.module")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own_shop.LitTager", r"own_shop has no LitTager; did you mean 'LitTagger'\?"),
        ("own_shop.LitTagger.Iner", r"own_shop.LitTagger has no Iner; did you mean 'Inner'\?"),
        ("own_sohp.LitTagger", r"there is no own_sohp.py in the current folder; did you mean 'own_shop'\?"),
        ("own_package.photos.Fotos", r"own_package.photos has no Fotos; did you mean 'Photos'\?"),
        ("own_package.fotos.Photos", "own_package has no fotos"),
    ],
)
def test_a_misspelt_class_is_told_with_the_nearest(target, message):
    with pytest.raises(ConfigurationError, match=rf"recipe\.module\._target_={target}: .*{message}"):
        looked_for(target)


@pytest.mark.parametrize(
    "target",
    ["own_shop.LitTagger", "own_shop.LitTagger.Inner", "own_package.photos.Photos", "torch.nn.Linear"],
)
def test_a_class_that_is_there_is_found(target):
    looked_for(target)


def test_what_a_module_of_ones_own_fails_to_import_is_left_to_be_told_with_its_cause():
    looked_for("own_broken.Net")
