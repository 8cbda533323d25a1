"""EfficientNet-Lite as a vision tower of LLaVA: what `--import` needs to load the model.

The published weights come under the names of another program, but in the order in which the
network computes, so they are taken in that order (`load_published`). Batch normalization always
uses the published statistics: the tower is not trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
"""EfficientNet-Lite0 (Tan and Le 2019; its Lite variant has no squeeze-and-excitation and clips at
6): for each stage the blocks, kernel, stride, expansion and channels."""
STEM, HEAD = 32, 1280
EPSILON = 1e-3


class EfficientNetLiteConfig(PreTrainedConfig):
    """The tower's shape.

    Attributes:
        image_size: side of the square picture, in pixels.
        grid: side of the square of features that the last feature map is averaged into.
        stages: as in `STAGES`.
        stem: channels of the first convolution.
        hidden_size: channels of a feature.
    """

    model_type = "efficientnet_lite"

    image_size: int = 224
    grid: int = 4
    stages: list[list[int]] | None = None
    stem: int = STEM
    hidden_size: int = HEAD

    def __post_init__(self, **kwargs: object) -> None:
        """Take Lite0's stages unless others are given."""
        self.stages = [list(stage) for stage in self.stages or STAGES]
        super().__post_init__(**kwargs)


class Convolution(nn.Module):
    """A convolution padded as TensorFlow's "SAME" is, and its batch normalization."""

    def __init__(
        self, into: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1,
        clipped: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel, self.stride, self.clipped = kernel, stride, clipped
        self.convolution = nn.Conv2d(into, out, kernel, stride, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(out, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, into, side, side) to (batch, out, side / stride, side / stride)."""
        sides = []
        for side in (x.shape[-1], x.shape[-2]):
            missing = (-(-side // self.stride) - 1) * self.stride + self.kernel - side
            sides += [max(missing, 0) // 2, max(missing, 0) - max(missing, 0) // 2]
        x = self.normalization(self.convolution(functional.pad(x, sides)))
        return functional.relu6(x) if self.clipped else x


class Block(nn.Module):
    """Expand, look around in each channel, project; added to what came in where shapes allow."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = into * expansion
        layers = [Convolution(into, wide)] if expansion > 1 else []
        layers.append(Convolution(wide, wide, kernel, stride, groups=wide))
        layers.append(Convolution(wide, out, clipped=False))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        made: Tensor = self.layers(x)
        return x + made if self.adds else made


class EfficientNetLite(PreTrainedModel):
    """Pictures to a square of features in rows, which `hidden_states` has too, as LLaVA asks."""

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = [Convolution(3, config.stem, 3, 2)]
        channels = config.stem
        for count, kernel, stride, expansion, out in config.stages or ():
            for number in range(count):
                first = number == 0
                layers.append(Block(channels, out, kernel, stride if first else 1, expansion))
                channels = out
        layers.append(Convolution(channels, config.hidden_size))
        self.layers = nn.Sequential(*layers)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave PyTorch's own."""

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Stay in evaluation mode: the statistics are the published ones."""
        super().train(False)
        return self

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, hidden_size, side / 32, side / 32)."""
        found: Tensor = self.layers(pixel_values)
        return found

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
        """(batch, 3, side, side) to (batch, grid * grid, hidden_size)."""
        features = functional.adaptive_avg_pool2d(self.feature_map(pixel_values), self.config.grid)
        tokens = features.flatten(2).transpose(1, 2)
        return BaseModelOutputWithPooling(tokens, tokens.mean(1), hidden_states=(tokens,))


def load_published(tower: EfficientNetLite, weights: Mapping[str, Tensor]) -> None:
    """Take the published weights in their order; the classifier at their end is left out.

    Raises:
        ValueError: there are not as many, or one has another shape.
    """
    own = tower.state_dict()
    published = [(name, value) for name, value in weights.items() if not name.startswith("_fc.")]
    if len(own) != len(published):
        raise ValueError(f"{len(published)} tensors were published, the tower has {len(own)}")
    for (name, value), (theirs, found) in zip(own.items(), published, strict=True):
        if value.shape != found.shape:
            raise ValueError(f"{theirs} has shape {tuple(found.shape)}, {name} {value.shape}")
    tower.load_state_dict({name: value for name, (_, value) in zip(own, published, strict=True)})


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLite)
