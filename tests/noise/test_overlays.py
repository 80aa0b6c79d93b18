"""The overlays of experiments/noise are what their names say."""

import pytest
import yaml

from en_bench.noise.kinds import KINDS
from tests.test_experiments import EXPERIMENTS, overlays, parsed

WANTED = {
    "symmetric20": "symmetric 0.2 (seed 0)",
    "symmetric40": "symmetric 0.4 (seed 0)",
    "symmetric60": "symmetric 0.6 (seed 0)",
    "pair45": "pair 0.45 mapping next (seed 0)",
    "asymmetric40_cifar10": "pair 0.4 mapping cifar10 (seed 0)",
    "asymmetric40_cifar100": "pair 0.4 mapping cifar100 (seed 0)",
    "instance40": "instance 0.4 (seed 0)",
}


def test_there_is_a_test_for_each():
    assert {path.stem for path in overlays("noise")} == set(WANTED)


@pytest.mark.parametrize("path", overlays("noise"), ids=lambda path: path.stem)
def test_every_overlay_parses_to_its_noise(path, capsys):
    config = parsed(capsys, EXPERIMENTS / "recipe" / "cifar.yaml", EXPERIMENTS / "data" / "cifar10.yaml", path)
    noise = config["data"]["noise"]
    kind = next(kind for kind in KINDS.values() if kind.__name__ == noise["class_path"].rpartition(".")[2])
    assert str(kind(**noise["init_args"])) == WANTED[path.stem]


def test_labels_of_cifar10n_have_an_overlay_each():
    columns = {yaml.safe_load(path.read_text())["data"]["labels"] for path in EXPERIMENTS.glob("data/cifar10n_*.yaml")}
    assert columns == {"aggre", "random1", "random2", "random3", "worst"}
