"""The callback in real fits: what is compressed, when it steps, what it logs, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_compress import (
    Compression,
    CoreMLExport,
    DKMPalettization,
    LinearQuantization,
    MagnitudePruning,
)
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.summary import summarize
from lightning_compress.package import decompressed_weights, inspect


def zeros_in(weight: torch.Tensor) -> float:
    return float((weight == 0).float().mean())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tmp_path / "net.mlpackage"


class TestPruning:
    def test_a_fit_reaches_the_sparsity_in_the_module_and_in_the_package(
        self, digit_module, digit_data, make_trainer, package
    ):
        compression = Compression(
            MagnitudePruning(target_sparsity=0.75, scheduler={"begin_step": 0.0, "end_step": 0.6}),
            export=CoreMLExport(package),
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        for module in (
            compression.finalized.features[0],
            compression.finalized.features[3],
            compression.finalized.head,
        ):
            assert zeros_in(module.weight) == pytest.approx(0.75, abs=1e-3)
        report = inspect(package)
        assert [layer.technique for layer in report.layers if layer.parameters > 500] == ["pruned", "pruned"]
        for weight in decompressed_weights(package).values():
            if weight.size > 500:
                assert np.mean(weight == 0) == pytest.approx(0.75, abs=1e-3)

    def test_channels_are_dropped_whole(self, digit_module, digit_data, make_trainer):
        compression = Compression(
            MagnitudePruning(
                target_sparsity=0.5, granularity="per_channel", module_name_configs={"head": None}
            )
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        weight = compression.finalized.features[3].weight
        assert int((weight.flatten(1) == 0).all(dim=1).sum()) == 16
        assert zeros_in(compression.finalized.head.weight) < 0.01

    def test_n_of_each_m_weights_are_dropped(self, digit_module, digit_data, make_trainer):
        compression = Compression(
            MagnitudePruning(n_m_ratio=[3, 4], module_name_configs={"features.0": None})
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        groups = compression.finalized.head.weight.reshape(10, -1, 4)
        assert bool(((groups == 0).sum(dim=2) == 3).all())

    def test_blocks_of_output_channels_are_dropped_together(self, digit_module, digit_data, make_trainer):
        compression = Compression(MagnitudePruning(block_size=2, module_name_configs={"head": None}))
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        pairs = compression.finalized.features[3].weight.reshape(16, 2, -1) == 0
        assert bool((pairs[:, 0] == pairs[:, 1]).all())
        assert zeros_in(compression.finalized.features[3].weight) == pytest.approx(0.5, abs=1e-3)


class TestSelection:
    @pytest.mark.parametrize(
        "method",
        [
            MagnitudePruning(target_sparsity=0.5, module_name_configs={"head": None}),
            DKMPalettization(n_bits=2, module_name_configs={"head": None}),
            DKMPalettization(module_name_configs={r"features\.3": {"n_bits": 2}}),
            DKMPalettization(module_type_configs={"Conv2d": {"n_bits": 2}}),
            LinearQuantization(module_name_configs={"head": None}),
        ],
        ids=lambda method: f"{method.schema.technique} {method.describe()['module_name_configs']}",
    )
    def test_what_is_excluded_or_not_named_stays_dense(self, digit_module, digit_data, make_trainer, method):
        compression = Compression(method)
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        techniques = {layer.name: layer.technique for layer in summarize(compression.finalized)}
        assert techniques["head.weight"] == "dense"
        # Batch normalization that was folded into the convolution lengthens its name.
        assert any(name.startswith("features.3.") and found != "dense" for name, found in techniques.items())


class TestPalettization:
    @pytest.mark.parametrize("n_bits", [1, 2, 4])
    def test_no_weight_has_more_values_than_the_palette(
        self, digit_module, digit_data, make_trainer, package, n_bits
    ):
        compression = Compression(DKMPalettization(n_bits=n_bits), export=CoreMLExport(package))
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        for module in (compression.finalized.features[3], compression.finalized.head):
            assert module.weight.unique().numel() <= 2**n_bits
        palettized = [layer for layer in inspect(package).layers if layer.technique == "palettized"]
        assert len(palettized) == 2
        assert all(layer.bits == n_bits and layer.distinct_values <= 2**n_bits for layer in palettized)

    def test_groups_of_channels_have_palettes_of_their_own(
        self, digit_module, digit_data, make_trainer, package
    ):
        compression = Compression(
            DKMPalettization(
                n_bits=2, granularity="per_grouped_channel", group_size=8, module_name_configs={"head": None}
            ),
            export=CoreMLExport(package),
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        groups = compression.finalized.features[3].weight.reshape(4, -1)
        assert all(group.unique().numel() <= 4 for group in groups)
        assert compression.finalized.features[3].weight.unique().numel() > 4
        assert compression.exported.target.startswith("iOS18")

    def test_each_channel_is_scaled_before_it_is_palettized(
        self, digit_module, digit_data, make_trainer, package
    ):
        compression = Compression(
            DKMPalettization(n_bits=2, enable_per_channel_scale=True), export=CoreMLExport(package)
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        assert all(row.unique().numel() <= 4 for row in compression.finalized.features[3].weight.flatten(1))
        assert compression.exported.target.startswith("iOS18")

    def test_pairs_of_weights_share_an_entry(self, digit_module, digit_data, make_trainer, package):
        compression = Compression(DKMPalettization(n_bits=4, cluster_dim=2), export=CoreMLExport(package))
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        pairs = compression.finalized.features[3].weight.reshape(16, 2, -1).movedim(1, 2).reshape(-1, 2)
        assert pairs.unique(dim=0).shape[0] <= 16
        assert "vectors of 2" in str([layer.details for layer in inspect(package).layers])

    def test_a_milestone_as_a_fraction_of_the_fit_starts_palettization_there(
        self, digit_module, digit_data, make_trainer
    ):
        distinct: list[int] = []

        def record(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            if module.training:
                distinct.append(output.detach().round(decimals=4).unique().numel())

        def watch() -> None:
            digit_module.model.head.parametrizations.weight[0].register_forward_hook(record)

        digit_module.on_train_start = watch
        compression = Compression(DKMPalettization(n_bits=2, milestone=0.5))
        make_trainer(compression, max_epochs=2).fit(digit_module, datamodule=digit_data)
        # The fit has 16 steps: the palette acts after the eighth.
        assert len(distinct) == 16
        assert all(count > 100 for count in distinct[:8])
        assert all(count < distinct[0] for count in distinct[8:])


class TestQuantization:
    def test_weights_become_int8_in_the_package(self, digit_module, digit_data, make_trainer, package):
        compression = Compression(
            LinearQuantization(activation_dtype="float32", milestones=[0, 0.1, 0.7, 0.8]),
            export=CoreMLExport(package),
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        layers = inspect(package).layers
        assert {layer.technique for layer in layers if layer.parameters > 100} == {"quantized"}
        assert all(layer.bits == 8 for layer in layers if layer.technique == "quantized")
        assert "quantize" not in compression.exported.report.operations

    @pytest.mark.parametrize("algorithm", ["vanilla", "learnable"])
    def test_activations_become_int8_too(self, digit_module, digit_data, make_trainer, package, algorithm):
        compression = Compression(
            LinearQuantization(algorithm=algorithm, milestones=[0, 0.1, 0.7, 0.8]),
            export=CoreMLExport(package),
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        operations = compression.exported.report.operations
        assert operations["quantize"] >= 3
        assert operations["dequantize"] >= 3
        assert compression.exported.target.startswith("iOS17")

    def test_observers_learn_nothing_from_validation(self, digit_module, digit_data, make_trainer):
        compression = Compression(LinearQuantization())
        seen: dict[str, torch.Tensor] = {}

        def ranges() -> dict[str, torch.Tensor]:
            return {
                key: value.clone()
                for key, value in digit_module.state_dict().items()
                if key.endswith((".low", ".high"))
            }

        digit_module.on_validation_epoch_start = lambda: seen.update(ranges())
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
        after = ranges()
        assert len(seen) == 12
        assert seen.keys() == after.keys()
        assert all(torch.equal(seen[key], after[key]) for key in seen)

    def test_neither_example_inputs_nor_a_traceable_forward_is_needed(
        self, digit_module, digit_data, make_trainer
    ):
        class DependsOnValues(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x if x.sum() > 0 else -x

        digit_module.model.features.append(DependsOnValues())
        digit_module.example_input_array = None
        compression = Compression(LinearQuantization())
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
        assert {layer.technique for layer in compression.layers} == {"quantized"}


class TestJointCompression:
    @pytest.mark.parametrize("reverse", [False, True])
    def test_pruning_and_palettization_keep_sparsity_and_palette_in_any_order(
        self, digit_module, digit_data, make_trainer, package, reverse
    ):
        methods = [
            MagnitudePruning(target_sparsity=0.5, scheduler={"begin_step": 0.0, "end_step": 0.4}),
            DKMPalettization(n_bits=4),
        ]
        compression = Compression(*(methods[::-1] if reverse else methods), export=CoreMLExport(package))
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        for module in (compression.finalized.features[3], compression.finalized.head):
            assert zeros_in(module.weight) >= 0.5 - 1e-3
            assert module.weight.unique().numel() <= 16
        joint = [layer for layer in inspect(package).layers if layer.parameters > 2048]
        assert all(set(layer.technique.split(" + ")) == {"pruned", "palettized"} for layer in joint)

    def test_pruning_and_quantization_keep_sparsity_and_integers(
        self, digit_module, digit_data, make_trainer, package
    ):
        compression = Compression(
            MagnitudePruning(target_sparsity=0.5),
            LinearQuantization(milestones=[0, 0.1, 0.7, 0.8]),
            export=CoreMLExport(package),
        )
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        joint = [layer for layer in inspect(package).layers if layer.parameters > 2048]
        assert len(joint) == 2
        assert all(set(layer.technique.split(" + ")) == {"pruned", "quantized"} for layer in joint)
        assert all(layer.sparsity >= 0.5 - 1e-3 for layer in joint)


class TestFit:
    def test_a_step_is_an_optimizer_step_and_not_a_batch(self, digit_module, digit_data, make_trainer):
        compression = Compression(MagnitudePruning(scheduler={"update_steps": [4], "power": 1}))
        levels: list[float] = []
        digit_module.on_train_batch_start = lambda batch, index: levels.append(
            zeros_in(digit_module.model.head.parametrizations.weight[0].mask)
        )
        make_trainer(compression, max_epochs=1, accumulate_grad_batches=2).fit(
            digit_module, datamodule=digit_data
        )
        # 8 batches make 4 optimizer steps; the mask changes after the last of them.
        assert levels == [0.0] * 8
        assert zeros_in(digit_module.model.head.parametrizations.weight[0].mask) == pytest.approx(
            0.5, abs=1e-3
        )

    def test_the_trained_module_stays_prepared_and_keeps_its_parameters(
        self, digit_module, digit_data, make_trainer
    ):
        before = {id(parameter) for parameter in digit_module.parameters()}
        compression = Compression(DKMPalettization(n_bits=2))
        trainer = make_trainer(compression)
        trainer.fit(digit_module, datamodule=digit_data)
        assert is_parametrized(digit_module.model.head, "weight")
        assert not is_parametrized(compression.finalized.head)
        assert type(compression.finalized.head) is nn.Linear
        assert {id(parameter) for parameter in digit_module.parameters()} == before
        held = {
            id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]
        }
        assert held == {id(parameter) for parameter in digit_module.parameters()}

    def test_sparsity_and_error_are_logged(self, digit_module, digit_data, make_trainer):
        compression = Compression(MagnitudePruning(target_sparsity=0.5), DKMPalettization(n_bits=2))
        trainer = make_trainer(compression, log_every_n_steps=1)
        trainer.fit(digit_module, datamodule=digit_data)
        assert float(trainer.callback_metrics["compression/sparsity"]) == pytest.approx(0.5, abs=1e-3)
        assert 0 < float(trainer.callback_metrics["compression/weight_error"]) < 1
        assert 0 < float(trainer.callback_metrics["compression/assignment_gap"]) < 1

    def test_layers_are_summarized(self, digit_module, digit_data, make_trainer, capsys):
        compression = Compression(DKMPalettization(n_bits=2))
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        rows = {layer.name: layer for layer in compression.layers}
        assert rows["features.0.weight"].technique == "dense"
        assert rows["head.weight"].technique == "palettized"
        assert rows["head.weight"].bits == 2
        assert rows["head.weight"].bytes_before == 2 * 5120
        assert rows["head.weight"].bytes_after == 5120 // 4 + 4 * 2
        printed = capsys.readouterr().out
        assert printed.index("palette of 2 bits") < printed.index("stays dense: 144 elements")
        assert "head" in printed

    def test_a_subclass_keeps_its_checkpoints(self, digit_module, digit_data, make_trainer, tmp_path):
        class Renamed(Compression):
            pass

        path = tmp_path / "last.ckpt"
        trainer = make_trainer(Renamed(DKMPalettization(n_bits=2)))
        trainer.fit(digit_module, datamodule=digit_data)
        trainer.save_checkpoint(path)
        restored = Compression.load_from_checkpoint(path, type(digit_module)())
        assert restored.finalize().head.weight.unique().numel() <= 4

    def test_what_techniques_hold_is_reported_in_training(self, digit_module, digit_data, make_trainer):
        compression = Compression(DKMPalettization(n_bits=2))
        reports = []
        digit_module.on_train_batch_end = lambda *arguments: reports.append(compression.report())
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
        told = reports[-1]["head.weight"]
        assert told.values["palette"].shape == (1, 4, 1)
        assert float(told.values["shares"].sum()) == pytest.approx(1)
        assert 0 < told.error < 1

    def test_nothing_to_compress_still_exports(self, digit_module, digit_data, make_trainer, package):
        compression = Compression(export=CoreMLExport(package))
        make_trainer(compression, max_epochs=1).fit(digit_module, datamodule=digit_data)
        assert {layer.technique for layer in inspect(package).layers} == {"dense"}

    def test_a_rehearsal_does_not_replace_the_package(self, digit_module, digit_data, make_trainer, package):
        make_trainer(Compression(export=CoreMLExport(package)), max_epochs=1).fit(
            digit_module, datamodule=digit_data
        )
        before = {file: file.read_bytes() for file in package.rglob("*") if file.is_file()}
        compression = Compression(
            LinearQuantization(milestones=[0, 100, 200, 300]), module="model", export=CoreMLExport(package)
        )
        rehearsed = type(digit_module)()
        make_trainer(compression, fast_dev_run=True).fit(rehearsed, datamodule=digit_data)
        assert {file: file.read_bytes() for file in package.rglob("*") if file.is_file()} == before
        assert compression.exported.path.name == "net.fast_dev_run.mlpackage"

    def test_an_export_that_fails_leaves_the_earlier_package(
        self, digit_module, digit_data, make_trainer, package
    ):
        make_trainer(Compression(export=CoreMLExport(package)), max_epochs=1).fit(
            digit_module, datamodule=digit_data
        )
        before = {file: file.read_bytes() for file in package.rglob("*") if file.is_file()}

        def breaks(module: nn.Module) -> nn.Module:
            raise RuntimeError("no such output")

        failing = Compression(export=CoreMLExport(package, wrapper=breaks))
        with pytest.raises(
            ConfigurationError, match=r"wrapper=.*breaks.*RuntimeError: no such output"
        ) as caught:
            make_trainer(failing, max_epochs=1).fit(type(digit_module)(), datamodule=digit_data)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert {file: file.read_bytes() for file in package.rglob("*") if file.is_file()} == before

    def test_a_fit_cut_short_warns_that_less_was_compressed(self, digit_module, digit_data, make_trainer):
        compression = Compression(MagnitudePruning(target_sparsity=0.5, scheduler={"begin_step": 0.9}))

        def stop(batch: object, index: int) -> None:
            digit_module.trainer.should_stop = index >= 1

        digit_module.on_train_batch_start = stop
        with pytest.warns(
            UserWarning, match="the fit ended before the compression did: pruning stands at step"
        ):
            make_trainer(compression).fit(digit_module, datamodule=digit_data)

    def test_a_second_fit_goes_on_with_the_prepared_module(self, digit_module, digit_data, make_trainer):
        compression = Compression(DKMPalettization(n_bits=2))
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        first = compression.finalized
        make_trainer(compression).fit(digit_module, datamodule=digit_data)
        assert compression.finalized is not first
        assert compression.finalized.head.weight.unique().numel() <= 4

    def test_a_network_built_in_configure_model_is_found(self, digit_module, digit_data, make_trainer):
        class BuiltLate(type(digit_module)):
            def __init__(self) -> None:
                super().__init__()
                self.model = None

            def configure_model(self) -> None:
                if self.model is None:
                    self.model = type(digit_module)().model

        compression = Compression(DKMPalettization(n_bits=2), module="model")
        make_trainer(compression).fit(BuiltLate(), datamodule=digit_data)
        assert compression.finalized.head.weight.unique().numel() <= 4
