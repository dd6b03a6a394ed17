"""What cannot be compressed or exported as asked is told before the first training step."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    MagnitudePruning,
)
from lightning_compress.errors import (
    CompressionError,
    ConfigurationError,
    ModuleNotFoundInModelError,
    WeightError,
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tmp_path / "net.mlpackage"


class TestRefusals:
    """Each is raised before the first training step."""

    @pytest.fixture
    def fit(self, digit_module, digit_data, make_trainer):
        def run(compression: Compression, **settings: object) -> None:
            def fail(*arguments: object) -> None:
                raise AssertionError("training began")

            digit_module.training_step = fail
            make_trainer(compression, **settings).fit(digit_module, datamodule=digit_data)

        return run

    def test_a_module_path_that_does_not_exist(self, fit):
        with pytest.raises(ModuleNotFoundInModelError, match=r"module='modle'.*the nearest are \['model'"):
            fit(Compression(DKMPalettization(), module="modle"))

    def test_no_example_inputs_for_an_export(self, fit, digit_module, package):
        digit_module.example_input_array = None
        with pytest.raises(
            ConfigurationError, match="CoreMLExport needs example inputs.*example_input_array in DigitModule"
        ):
            fit(Compression(export=CoreMLExport(package)))

    def test_a_target_too_low_for_the_compression(self, fit, package):
        export = CoreMLExport(package, minimum_deployment_target="iOS16")
        with pytest.raises(CompressionError, match="iOS16.*cannot carry.*3 bits.*iOS18"):
            fit(Compression(DKMPalettization(n_bits=3), export=export))

    def test_a_joint_compression_below_ios18(self, fit, package):
        export = CoreMLExport(package, minimum_deployment_target="iOS17")
        with pytest.raises(CompressionError, match="more than one compression of the same weight.*iOS18"):
            fit(Compression(MagnitudePruning(), DKMPalettization(n_bits=2), export=export))

    def test_a_folder_that_cannot_be_written(self, fit, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(CompressionError, match="file"):
            fit(Compression(export=CoreMLExport(tmp_path / "file" / "net.mlpackage")))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_weight_that_is_not_finite(self, fit, digit_module, value):
        digit_module.model.head.weight.data[3, 5] = value
        with pytest.raises(WeightError, match="'head.*1 of 5120 values"):
            fit(Compression(DKMPalettization(n_bits=2)))

    def test_a_weight_that_is_no_longer_finite_at_the_end(self, digit_module, digit_data, make_trainer):
        def spoil() -> None:
            digit_module.model.head.bias.data[0] = float("nan")

        digit_module.on_train_end = spoil
        with pytest.raises(WeightError, match=r"'head.bias' holds NaN or infinity at the end of the fit"):
            make_trainer(Compression(MagnitudePruning())).fit(digit_module, datamodule=digit_data)

    def test_a_schedule_longer_than_the_fit(self, fit):
        with pytest.raises(ConfigurationError, match="ends at optimizer step 500, but the fit has 16"):
            fit(Compression(MagnitudePruning(scheduler={"begin_step": 500})))

    def test_a_fraction_of_a_fit_of_unknown_length(self, fit):
        compression = Compression(MagnitudePruning(scheduler={"begin_step": 0.5}))
        with pytest.raises(
            ConfigurationError, match=r"0.5, a fraction of the fit, but the length of the fit is unknown"
        ):
            fit(compression, max_epochs=-1, max_time={"seconds": 5})

    def test_weights_averaged_before_they_are_prepared(self, digit_module, digit_data, make_trainer):
        trainer = make_trainer(WeightAveraging(), Compression(DKMPalettization()))
        with pytest.raises(ConfigurationError, match="WeightAveraging comes before Compression"):
            trainer.fit(digit_module, datamodule=digit_data)

    def test_a_module_with_two_networks_and_no_path(self, digit_module, fit):
        digit_module.other = nn.Linear(2, 2)
        with pytest.raises(ConfigurationError, match=r"\['model', 'other'\]; name the one to compress"):
            fit(Compression(DKMPalettization()))

    def test_a_module_that_is_already_prepared(self, digit_module, digit_data, make_trainer):
        trainer = make_trainer(
            Compression(DKMPalettization(), module="model"),
            Compression(MagnitudePruning(), module="model.head"),
        )
        with pytest.raises(ConfigurationError, match="already prepared"):
            trainer.fit(digit_module, datamodule=digit_data)
