"""Small image classifiers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.zoo.recipe import recipe


@recipe("digits-cnn", data="digits", epochs=15, learning_rate=6e-3, target=0.97, layer="conv2")
class DigitsCNN(nn.Module):
    """Two convolutions at full resolution, one pooling, two linear layers; ``(N, 1, 8, 8)`` to ``(N, 10)``.

    Its activations are functional calls, as in much code that users bring, so no module stands for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.output = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.conv1(images))
        maps = F.relu(self.conv2(maps))
        maps = F.max_pool2d(maps, 2)
        return self.output(F.relu(self.hidden(maps.flatten(1))))
