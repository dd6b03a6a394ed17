"""Networks of the libraries that people use, trained two steps, exported, verified and measured."""

from __future__ import annotations

import pytest

from lightning_compress.commands import train, verify

NETWORKS = {
    "timm": ("timm", "Tagger", "OfImages", ["task=classification", "export=image"]),
    "transformers": ("transformers", "TextClassifier", "OfTexts", []),
    "transformers, with probabilities": (
        "transformers",
        "TextClassifier",
        "OfTexts",
        ["task=classification"],
    ),
    "segmentation_models_pytorch": (
        "segmentation_models_pytorch",
        "Segmenter",
        "OfImages",
        ["data.masks=true", "export=image"],
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_a_library_is_compressed_in_its_users_module(name, configure, tmp_path):
    package, module, data, more = NETWORKS[name]
    pytest.importorskip(package, reason="in the extra `breadth`")
    own = [
        "recipe=module",
        f"recipe.module._target_=tests.commands.own_networks.{module}",
        f"data._target_=tests.commands.own_networks.{data}",
        "recipe.metric=val/loss",
        *(f"+{word}" if word.startswith("data.") else word for word in more),
    ]
    config = configure(
        *own,
        "compression=palettize_4bit",
        "trainer.accelerator=cpu",
        "float_fit.trainer.max_steps=2",
        "compressed_fit.trainer.max_steps=2",
        "post_training_bits=[]",
        "callbacks.progress_bar=null",
    )
    results = train.TrainingJob(config, tmp_path).run()
    assert [result.name for result in results] == ["float16", "palettize_4bit"]
    assert results[1].weight_bytes < results[0].weight_bytes / 2
    checkpoint = tmp_path / "compressed_fit" / "checkpoints" / "last.ckpt"
    verify.run(
        configure(
            *own,
            f"package={results[1].package}",
            f"checkpoint={checkpoint}",
            "metric_tolerance=0.05",
            command="verify",
        )
    )
