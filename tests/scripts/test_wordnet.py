"""The list of ImageNet's classes that every script over ImageNet or WebVision shares."""

import re

import pytest
from timm.data import ImageNetInfo

from data_scripts.layouts.wordnet import imagenet_classes, require_imagenet_classes
from en_bench.errors import InputError


def test_the_classes_are_timms_own_in_its_order():
    classes = imagenet_classes()
    assert list(classes) == ImageNetInfo().label_names()
    assert len(set(classes)) == 1000
    assert list(classes) == sorted(classes)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in classes)
    assert [classes[label] for label in (0, 1, 207, 999)] == ["n01440764", "n01443537", "n02099601", "n15075141"]


def test_any_order_of_the_thousand_will_do():
    require_imagenet_classes(reversed(imagenet_classes()), "list.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[1:], "list.txt: its 999 WordNet ids are not ImageNet's 1,000 (1 missing, first n01440764):"),
        (lambda ids: [*ids, "n00000001"], "its 1,001 WordNet ids are not ImageNet's 1,000 (1 not of ImageNet, first"),
        (lambda ids: [*ids, ids[5]], f"its 1,001 WordNet ids .* \\(1 listed twice, first {imagenet_classes()[5]}\\)"),
        (
            lambda ids: ["n00000001", ids[2], *ids[2:]],
            "(2 missing, first n01440764; 1 not of ImageNet, first n00000001; 1 listed twice, first "
            f"{imagenet_classes()[2]}): name the files of ILSVRC 2012 or WebVision 1.0",
        ),
        (lambda ids: [], "its 0 WordNet ids are not ImageNet's 1,000 (1000 missing, first n01440764)"),
    ],
    ids=["one short", "one strange", "one twice", "all at once", "none"],
)
def test_another_list_is_refused_with_what_is_wrong_in_it(change, message):
    pattern = message if "\\(" in message else re.escape(message)
    with pytest.raises(InputError, match=pattern):
        require_imagenet_classes(change(list(imagenet_classes())), "list.txt")
