"""The same augmentation in three hands: ours, torchvision's on Pillow images, torchvision's on tensors.

torchvision takes seconds to import, and only those who use it do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from en_bench.data.transforms import CenterCrop, PadCropFlip, ResizedCropFlip, Transform

Stage = Literal["train", "eval"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PADDING = 4


@dataclass(frozen=True)
class Recipe:
    """What becomes of an image.

    Attributes:
        size: pixels of the square that the network takes.
        padded: images have that size already and are shifted (CIFAR's recipe); else parts of them are resized
            (ImageNet's).
    """

    size: int
    padded: bool

    @property
    def short_side(self) -> int:
        """To which images are resized before the middle is cut out for evaluation: 256 for 224."""
        return self.size if self.padded else round(self.size * 256 / 224)

    def describe(self) -> str:
        """For the tables."""
        train = f"pad by {_PADDING}, crop, flip" if self.padded else "resized crop, flip"
        return f"{train}, {self.size} px; evaluation: shorter side {self.short_side}, middle {self.size} px"

    def ours(self, stage: Stage) -> Transform:
        """As `experiments/recipe` has it."""
        if stage == "eval":
            return CenterCrop(self.size, self.short_side)
        return PadCropFlip(self.size, _PADDING) if self.padded else ResizedCropFlip(self.size)

    def pillow(self, stage: Stage) -> Callable[[Any], Tensor]:
        """The standard recipe: from a Pillow image to normalised float32 (3, size, size)."""
        from torchvision import transforms as v1

        steps: list[Any] = [*self._steps(v1, stage), v1.ToTensor(), v1.Normalize(MEAN, STD)]
        composed: Callable[[Any], Tensor] = v1.Compose(steps)
        return composed

    def tensors(self, stage: Stage) -> Callable[[bytes], Tensor]:
        """From the bytes of a JPEG or PNG file to uint8 (3, size, size), decoded by torchvision."""
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms import v2

        change = v2.Compose(self._steps(v2, stage))

        def made(content: bytes) -> Tensor:
            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            image: Tensor = change(decode_image(encoded, ImageReadMode.RGB))
            return image

        return made

    def _steps(self, transforms: Any, stage: Stage) -> list[Any]:
        if self.padded:
            crop = [transforms.RandomCrop(self.size, padding=_PADDING), transforms.RandomHorizontalFlip()]
            return crop if stage == "train" else [transforms.CenterCrop(self.size)]
        if stage == "train":
            return [transforms.RandomResizedCrop(self.size, antialias=True), transforms.RandomHorizontalFlip()]
        return [transforms.Resize(self.short_side, antialias=True), transforms.CenterCrop(self.size)]
