"""Models in memory leave nothing in the system's temporary folder."""

from __future__ import annotations

import gc
import os
import tempfile

import coremltools as ct
import pytest

from lightning_compress.coreml.convert import convert
from lightning_compress.coreml.export import CoreMLExport
from lightning_compress.coreml.post_training import PostTrainingForm, compress_package
from lightning_compress.package.inspection import inspect
from lightning_compress.package.opening import open_package


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary folder, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_an_export_leaves_nothing_behind(temporary, tmp_path, network, digit):
    exported = CoreMLExport(tmp_path / "network.mlpackage", user_metadata={"made": "here"}).run(
        network, digit
    )
    gc.collect()
    assert list(temporary.iterdir()) == []
    assert inspect(exported.path).layers


def test_each_of_several_models_goes_with_its_folder(temporary, network, digit):
    models = [convert(network, digit, target=ct.target.iOS18)]
    models += [
        form.model
        for form in compress_package(models[0], [PostTrainingForm(palettize=bits) for bits in (8, 4)])
    ]
    while models:
        assert len(list(temporary.iterdir())) == len(models)
        models.pop()
        gc.collect()
    assert list(temporary.iterdir()) == []


def test_what_is_opened_stays_as_long_as_it_is_read(temporary, network, digit):
    opened = open_package(convert(network, digit, target=ct.target.iOS18))
    gc.collect()
    assert opened.weight_files
    assert opened.program().functions
    del opened
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_process_leaves_the_folder_to_its_parent(temporary, network, digit):
    model = convert(network, digit, target=ct.target.iOS18)
    # The one thread that is copied only drops the model.
    process = os.fork()
    if process == 0:
        del model
        gc.collect()
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
    assert inspect(model).layers


def test_coremltools_itself_still_keeps_the_folder_till_the_process_ends(temporary, network, digit):
    """If this fails, `removed_with` is no longer needed."""
    model = convert(network, digit, target=ct.target.iOS18)
    ct.models.MLModel(model.get_spec(), weights_dir=model.weights_dir, skip_model_load=True)
    del model
    gc.collect()
    assert [entry.suffix for entry in temporary.iterdir()] == [".mlpackage"]
