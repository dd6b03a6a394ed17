"""Networks of plain torch that people write: recurrent, three-dimensional, transposed, tied, attending."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallUNet(nn.Module):
    """Down by strides, up by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 32, 1), _block(32, 64, 2), _block(64, 128, 2)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(128, 64, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)])
        self.merge = nn.ModuleList([_block(128, 64, 1), _block(64, 32, 1)])
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of classes."""
        skipped = []
        for block in self.down:
            x = block(x)
            skipped.append(x)
        for up, merge, skip in zip(self.up, self.merge, skipped[-2::-1], strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return self.head(x)


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Video(nn.Module):
    """Convolutions of three dimensions, pooled by a layer or by a mean."""

    def __init__(self, pool: nn.Module | None) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(3, 32, 3, padding=1),
            nn.BatchNorm3d(32),
            nn.ReLU(),
            nn.Conv3d(32, 64, 3, 2, 1),
            nn.ReLU(),
        )
        self.pool = pool
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.body(x)
        return self.head(x.mean((2, 3, 4)) if self.pool is None else self.pool(x).flatten(1))


class Recognizer(nn.Module):
    """Convolutions over a line of text, a recurrent layer, and letters."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size * (1 + recurrent.bidirectional), 32)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of a letter at each place."""
        columns = self.features(x).flatten(1, 2).transpose(1, 2)
        return self.head(self.recurrent(columns)[0])


class Language(nn.Module):
    """Embeddings, attention and a projection, which may be the embedding again."""

    def __init__(self, attention: nn.Module, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 64)
        self.attention = attention
        self.head = None if tied else nn.Linear(64, 256)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of a token at each place."""
        x = self.embedding(ids)
        if isinstance(self.attention, nn.MultiheadAttention):
            x = x + self.attention(x, x, x, need_weights=False)[0]
        else:
            x = self.attention(x)
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)


class Keywords(nn.Module):
    """Depthwise and pointwise convolutions over a spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(16, 64, 5, 2, 2)]
        for _ in range(3):
            layers += [
                nn.BatchNorm1d(64),
                nn.ReLU(),
                nn.Conv1d(64, 64, 9, padding=4, groups=64),
                nn.Conv1d(64, 64, 1),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of keywords."""
        return self.head(self.body(x).mean(2))


class Stylizer(nn.Module):
    """Reflected padding and instance norm, as in the transfer of styles."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 9, padding=4, padding_mode="reflect"), nn.InstanceNorm2d(32, affine=True), nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1, padding_mode="reflect"), nn.InstanceNorm2d(64, affine=True), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(64, 3, 9, padding=4, padding_mode="reflect"),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return an image."""
        return self.body(x)


def _entry(
    build: Callable[[], nn.Module], *shape: int, vocabulary: int | None = None
) -> Callable[[], tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]]:
    def inputs(count: int) -> tuple[Tensor, ...]:
        if vocabulary is not None:
            return (torch.randint(0, vocabulary, (count, *shape)),)
        return (torch.randn(count, *shape),)

    return lambda: (build(), inputs)


def _encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2)


def _attention() -> nn.Module:
    return nn.MultiheadAttention(64, 4, batch_first=True)


PLAIN: dict[str, Callable[[], tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]]] = {
    "unet_convtranspose": _entry(SmallUNet, 3, 32, 32),
    "conv3d": _entry(lambda: Video(nn.AdaptiveAvgPool3d(1)), 3, 4, 16, 16),
    "conv3d_mean": _entry(lambda: Video(None), 3, 4, 16, 16),
    "conv_lstm": _entry(
        lambda: Recognizer(nn.LSTM(128, 64, bidirectional=True, batch_first=True)), 1, 16, 32
    ),
    "conv_gru": _entry(lambda: Recognizer(nn.GRU(128, 64, batch_first=True)), 1, 16, 32),
    "embedding_attention": _entry(lambda: Language(_attention(), False), 16, vocabulary=256),
    "transformer_encoder": _entry(lambda: Language(_encoder(), False), 16, vocabulary=256),
    "tied_language": _entry(lambda: Language(_encoder(), True), 16, vocabulary=256),
    "keywords_conv1d": _entry(Keywords, 16, 50),
    "stylizer_reflect": _entry(Stylizer, 3, 32, 32),
}
