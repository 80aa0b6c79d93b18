"""Checkpoints that the authors of SwitchNorm released, for networks whose normalisers were swapped."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def released_resnet_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a released ResNet with SwitchNorm, under the names of torchvision's and timm's ResNets.

    `checkpoint` is what the file holds, or its `state_dict`:

        network = torchvision.models.resnet50()
        swap_norms(network, functools.partial(SwitchNorm, official=True))
        checkpoint = torch.load("ResNet50v1+SN(8,32)-76.92.pth", map_location="cpu", weights_only=True)
        network.load_state_dict(released_resnet_state(checkpoint))

    Theirs are named sn1, sn2, sn3 beside conv1, conv2, conv3; those of a shortcut, downsample.1, as they are here.
    Files: the model zoo of github.com/switchablenorms/Switchable-Normalization, imagenet/README.md.
    Raises ValueError for what is no such state, for pre-activation networks (v2), which neither library has with these
    layers, and for SwitchNorm without BN, the one trained with a batch of 1.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in checkpoint.get("state_dict", checkpoint).items()}
    if any(name.startswith("sn_out.") for name in state):
        raise ValueError("the checkpoint is of a pre-activation ResNet (v2): take one of the v1 files")
    if not {"sn1.mean_weight", "fc.weight"} <= state.keys():
        raise ValueError(f"expected a ResNet with SwitchNorm (sn1.mean_weight, fc.weight, ...), got {list(state)[:4]}")
    if len(state["sn1.mean_weight"]) != 3:
        raise ValueError(
            f"the checkpoint mixes {len(state['sn1.mean_weight'])} normalisers, trained without BN; SwitchNorm has 3: "
            "take one that was trained with a batch above 1"
        )
    return {re.sub(r"(^|\.)sn(\d)\.", r"\1bn\2.", name): tensor for name, tensor in state.items()}
