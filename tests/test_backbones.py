import pytest
import torch
from torch import nn

from en_bench import backbones
from en_bench.errors import InputError


def counted(depth: int, classes: int) -> int:
    """Parameters of a CIFAR ResNet by hand: 3x3 convolutions without bias, two per channel of each BN, the head."""
    n = (depth - 2) // 6
    total = 9 * 3 * 16 + 2 * 16
    for c_in, c_out in ((16, 16), (16, 32), (32, 64)):
        total += 9 * c_in * c_out + (2 * n - 1) * 9 * c_out * c_out + 2 * n * 2 * c_out
    return total + 64 * classes + classes


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)])
def test_cifar_resnets_have_the_size_of_the_paper(depth, millions):
    model = backbones.build(f"cifar/resnet{depth}", 10)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == counted(depth, 10)
    assert round(parameters / 1e6, 2) == millions
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
    if depth == 20:
        assert parameters == 269_722


def test_cifar_resnet_halves_the_map_twice_and_learns_everywhere():
    torch.manual_seed(0)
    model = backbones.build("cifar/resnet20", 7)
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda _module, _args, y: shapes.append(tuple(y.shape[1:])))
    logits = model(torch.randn(4, 3, 32, 32))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_shortcut_is_option_a():
    block = backbones.build("cifar/resnet20", 10).layer2[0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_initialisation_is_he_et_al():
    torch.manual_seed(0)
    weight = backbones.build("cifar/resnet20", 10).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    "name", ["timm/resnet18", "timm/resnet18.a1_in1k", "torchvision/resnet18", "torchvision/mobilenet_v3_small"]
)
def test_other_sources(name):
    assert backbones.build(name, 7).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_new_head_on_loaded_weights(name):
    source = backbones.build(f"torchvision/{name}", 5)
    for classes in (5, 7):
        model = backbones.build(f"torchvision/{name}", classes)
        head_before = {k: v.clone() for k, v in model.state_dict().items() if v.shape != source.state_dict()[k].shape}
        backbones.load_all_but_head(model, source.state_dict())
        assert len(head_before) == (0 if classes == 5 else 2)
        for key, value in model.state_dict().items():
            assert torch.equal(value, head_before.get(key, source.state_dict()[key]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar/resnet21", "unknown model 'resnet21' of cifar: did you mean resnet"),
        ("timm/resnet5", "unknown model 'resnet5' of timm: did you mean resnet5"),
        ("timm/resnet18.a1_in2k", "no weights 'a1_in2k': did you mean a1_in1k"),
        ("torchvision/resnet19", "unknown model 'resnet19' of torchvision: did you mean resnet1"),
        ("torchvision/fcn_resnet50", "unknown model"),
        ("torchvision/qqqqqqq", "known are alexnet"),
        (
            "tim/resnet18",
            "unknown backbone 'tim/resnet18': write <source>/<model>, with source cifar, timm, torchvision",
        ),
        ("resnet18", "write <source>/<model>"),
        ("timm/", "write <source>/<model>"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(InputError) as info:
        backbones.build(name, 10)
    assert words in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "classes", "pretrained", "words"),
    [
        ("cifar/resnet20", 10, True, "no pretrained weights of cifar/resnet20"),
        ("timm/darknet17", 10, True, "no pretrained weights of timm/darknet17"),
        ("cifar/resnet20", 0, False, "num_classes must be at least 1"),
    ],
)
def test_what_cannot_be_built(name, classes, pretrained, words):
    with pytest.raises(InputError, match=words):
        backbones.build(name, classes, pretrained)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_give_one_tensor_in_training(name):
    model = backbones.build(f"torchvision/{name}", 3).train()
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 3)
