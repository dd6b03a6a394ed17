"""Networks of transformers: the real classes, with two layers of a width of 64 and random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_VOCABULARY, _LENGTH = 256, 16
_TEXT: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
}
_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}


class Picked(nn.Module):
    """Some of the named outputs of a network, as tensors.

    Args:
        network: A network that returns a dictionary or a `ModelOutput`.
        names: The outputs to return.
        options: Keyword arguments of each forward.
    """

    def __init__(self, network: nn.Module, *names: str, **options: Any) -> None:
        super().__init__()
        self.network = network
        self.names = names
        self.options = options

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network and pick."""
        outputs = self.network(*inputs, **self.options)
        picked = tuple(outputs[name] for name in self.names)
        return picked if len(picked) > 1 else picked[0]


def _tokens(count: int) -> tuple[Tensor, ...]:
    return (torch.randint(2, _VOCABULARY, (count, _LENGTH)),)


def _tokens_and_mask(count: int) -> tuple[Tensor, ...]:
    return (*_tokens(count), torch.ones(count, _LENGTH, dtype=torch.long))


def _pictures(size: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda count: (torch.randn(count, 3, size, size),)


def _sounds(channels: int, length: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda count: (torch.randn(count, channels, length) if channels else torch.randn(count, length),)


def _entry(
    model: str,
    configuration: str,
    inputs: Callable[[int], tuple[Tensor, ...]],
    *outputs: str,
    keys: dict[str, Any],
    **options: Any,
) -> Callable[[], tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]]:
    """A class of transformers with a configuration, and the outputs to keep."""

    def build() -> tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]:
        import transformers
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        # transformers names it nowhere else.
        kind = WhisperEncoder if model == "WhisperEncoder" else getattr(transformers, model)
        network = kind(getattr(transformers, configuration)(**keys))
        return Picked(network, *outputs, **options), inputs

    return build


def _detr() -> tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]:
    import transformers

    configuration = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage4"],
        ),
        d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=10,
    )  # fmt: skip
    return Picked(transformers.DetrForObjectDetection(configuration), "logits", "pred_boxes"), _pictures(64)


def _yolos() -> tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]:
    import transformers

    configuration = transformers.YolosConfig(**_VISION | {"image_size": [32, 32], "num_detection_tokens": 5})
    network = transformers.YolosForObjectDetection(configuration)
    for name, parameter in network.named_parameters():
        # These begin at zero, and layer normalization makes the rounding of nothing large; trained ones are not.
        if name.endswith(("_token", "_tokens", "position_embeddings")):
            nn.init.normal_(parameter, std=0.02)
    return Picked(network, "logits", "pred_boxes"), _pictures(32)


_GPT2: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
}
_LLAMA: dict[str, Any] = {**_TEXT, "num_key_value_heads": 2}
_DISTILBERT: dict[str, Any] = {
    "vocab_size": _VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 32,
}  # fmt: skip
_WHISPER: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_layers": 1,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 128, "num_mel_bins": 16, "max_source_positions": 32,
    "vocab_size": _VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1,
}  # fmt: skip
_WAV2VEC2: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "conv_dim": (32, 32, 32), "conv_stride": (5, 4, 2), "conv_kernel": (10, 4, 3), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0, "vocab_size": 32, "layerdrop": 0.0,
}  # fmt: skip
_T5: dict[str, Any] = {
    "vocab_size": _VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
}  # fmt: skip
_SEGFORMER: dict[str, Any] = {
    "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 64, "num_labels": 4,
}  # fmt: skip
_MOBILEVIT: dict[str, Any] = {
    "image_size": 64, "hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 128],
    "num_attention_heads": 4,
}  # fmt: skip

_HIDDEN, _LOGITS = "last_hidden_state", "logits"

TRANSFORMERS: dict[str, Callable[[], tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]]] = {
    "bert": _entry("BertModel", "BertConfig", _tokens, _HIDDEN, keys=_TEXT),
    "bert_with_mask": _entry("BertModel", "BertConfig", _tokens_and_mask, _HIDDEN, keys=_TEXT),
    "distilbert": _entry("DistilBertModel", "DistilBertConfig", _tokens, _HIDDEN, keys=_DISTILBERT),
    "distilbert_with_mask": _entry(
        "DistilBertModel", "DistilBertConfig", _tokens_and_mask, _HIDDEN, keys=_DISTILBERT
    ),
    "roberta": _entry("RobertaModel", "RobertaConfig", _tokens, _HIDDEN, keys=_TEXT),
    "albert": _entry("AlbertModel", "AlbertConfig", _tokens, _HIDDEN, keys={**_TEXT, "embedding_size": 32}),
    "masked_bert": _entry("BertForMaskedLM", "BertConfig", _tokens, _LOGITS, keys=_TEXT),
    "t5_encoder": _entry("T5EncoderModel", "T5Config", _tokens, _HIDDEN, keys=_T5),
    "gpt2": _entry("GPT2LMHeadModel", "GPT2Config", _tokens, _LOGITS, keys=_GPT2, use_cache=False),
    "llama": _entry("LlamaForCausalLM", "LlamaConfig", _tokens, _LOGITS, keys=_LLAMA, use_cache=False),
    "qwen2": _entry("Qwen2ForCausalLM", "Qwen2Config", _tokens, _LOGITS, keys=_LLAMA, use_cache=False),
    "vit": _entry("ViTModel", "ViTConfig", _pictures(32), _HIDDEN, keys=_VISION),
    "dinov2": _entry("Dinov2Model", "Dinov2Config", _pictures(32), _HIDDEN, keys=_VISION),
    "clip_vision": _entry("CLIPVisionModel", "CLIPVisionConfig", _pictures(32), _HIDDEN, keys=_VISION),
    "yolos": _yolos,
    "detr": _detr,
    "mobilevit": _entry("MobileViTModel", "MobileViTConfig", _pictures(64), _HIDDEN, keys=_MOBILEVIT),
    "segformer_b0": _entry(
        "SegformerForSemanticSegmentation", "SegformerConfig", _pictures(64), _LOGITS, keys=_SEGFORMER
    ),
    "whisper_encoder": _entry("WhisperEncoder", "WhisperConfig", _sounds(16, 64), _HIDDEN, keys=_WHISPER),
    "wav2vec2": _entry("Wav2Vec2ForCTC", "Wav2Vec2Config", _sounds(0, 1600), _LOGITS, keys=_WAV2VEC2),
}  # fmt: skip
