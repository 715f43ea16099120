"""The built-in classifiers, their training recipe, and torchvision's networks."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchmark.targets.cifar_cnn import CifarCnnConfig, CifarD
from benchmark.targets.loading.preprocessing import Preprocessed
from benchmark.targets.loading.recipe import RecipeConfig, TrainedTarget, shift_and_flip
from benchmark.targets.mnist_cnn import MnistC
from torch import Tensor, nn

import benchmark.api.training
from benchmark.api.adversarial_training import frozen_batchnorm, perturb
from benchmark.api.dataset import TensorSplit, TrainingData
from benchmark.api.target import PretrainedTarget, Target
from benchmark.api.training import Loop
from benchmark.errors import PluginError, UserError
from benchmark.plan.grid import load_grid
from benchmark.plugins.registry import default_registry
from benchmark.report.tables import markdown
from benchmark.storage.keys import canonical
from tests.api.test_training import Memory, Trainee
from tests.attacks.trained_classifiers import digits, error
from tests.conftest import Runner

REGISTRY = default_registry()
COLOURED = (3, 32, 32)
GREY = (1, 28, 28)
PUBLISHED_SIZES = {"cifar-d": 1_147_978, "resnet18": 11_173_962, "densenet40": 1_019_722, "vgg13": 9_413_066}
"""Parameters for 32×32×3 and ten classes: counted by hand for D, well known for the others."""


class TinyConfig(RecipeConfig):
    """The configuration of a network that trains fast."""


class Tiny(TrainedTarget[TinyConfig]):
    """A convolution with batch normalisation and dropout."""

    name = "tiny"

    def __init__(
        self, config: TinyConfig, image_shape: tuple[int, int, int] = GREY, num_classes: int = 10
    ) -> None:
        super().__init__(config, image_shape, num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], 8, 5, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.LazyLinear(num_classes),
        )
        self.eval()(torch.zeros(1, *image_shape))


def _trained(**parameters: Any) -> Tiny:
    torch.manual_seed(0)
    model = Tiny(TinyConfig(min_steps=0, lr=5e-3, **parameters)).train()
    model.fit(digits(), torch.Generator().manual_seed(0))
    return model.eval()


def _validation() -> tuple[Tensor, Tensor]:
    return next(digits().validation_batches(200))


def _robust_error(model: nn.Module, eps: float) -> float:
    x, labels = _validation()
    return error(model, perturb(model, x, labels, eps=eps, steps=20), labels)


# --- architectures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [GREY, COLOURED])
@pytest.mark.parametrize("name", ["advgan-cnn", *PUBLISHED_SIZES])
def test_a_classifier_returns_logits_with_gradients_for_both_sizes(
    name: str, shape: tuple[int, int, int]
) -> None:
    cls = REGISTRY.get("target", name).load()
    assert issubclass(cls, Target)
    model = cls(cls.config_type()(), shape, 7).eval()
    x = torch.rand(2, *shape, requires_grad=True)
    scores = model(x)
    assert scores.shape == (2, 7)
    (gradient,) = torch.autograd.grad(scores[0].logsumexp(0), x)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0  # the logits do not depend on the other image


@pytest.mark.parametrize(("name", "size"), PUBLISHED_SIZES.items())
def test_the_architectures_have_their_published_sizes(name: str, size: int) -> None:
    cls = REGISTRY.get("target", name).load()
    model = cls(cls.config_type()(), COLOURED, 10)  # type: ignore[call-arg]
    assert isinstance(model, nn.Module)
    assert sum(weights.numel() for weights in model.parameters()) == size


@pytest.mark.parametrize("name", ["advgan-cnn", *PUBLISHED_SIZES])
def test_images_of_other_sizes_are_refused(name: str) -> None:
    cls = REGISTRY.get("target", name).load()
    with pytest.raises(ValueError, match=f"{name} takes 28×28 or 32×32 images, got 64×64"):
        cls(cls.config_type()(), (3, 64, 64), 10)  # type: ignore[call-arg]


# --- the recipe -----------------------------------------------------------------------------------------


def test_the_rate_falls_along_a_cosine_in_every_group() -> None:
    sgd = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=9.0)
    loop = Loop(Trainee(), digits(), torch.Generator(), batch_size=16, steps=4)
    rates = []
    for _ in loop:
        loop.cosine(sgd, 0.2)
        assert len({group["lr"] for group in sgd.param_groups}) == 1
        rates.append(sgd.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.1 + 0.1 * 2**-0.5, 0.1, 0.1 - 0.1 * 2**-0.5])


@pytest.mark.parametrize("recipe", [{}, {"optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-3}])
def test_the_recipe_learns_digits(recipe: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Tiny(TinyConfig(epochs=4, min_steps=0, **({"lr": 5e-3} | recipe))).train()
    model.fit(digits(), torch.Generator().manual_seed(0))
    assert error(model.eval(), *_validation()) < 0.12


def test_weight_decay_and_momentum_reach_the_optimizer() -> None:
    optimizer = Tiny(TinyConfig(optimizer="sgd", weight_decay=0.25))._optimizer()
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0.25)
    assert Tiny(TinyConfig(weight_decay=0.5))._optimizer().param_groups[0]["weight_decay"] == 0.5


def test_augmented_images_are_shifted_and_flipped() -> None:
    images = torch.arange(1.0, 1 + 64 * 3 * 32 * 32).reshape(64, 3, 32, 32)
    found = shift_and_flip(images, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, [4] * 4)
    places = set()
    for image, before in zip(found, padded, strict=True):
        crops = {
            (down, right, mirrored): crop.flip(2) if mirrored else crop
            for down in range(9)
            for right in range(9)
            for mirrored in (False, True)
            for crop in [before[:, down : down + 32, right : right + 32]]
        }
        (place,) = [place for place, crop in crops.items() if torch.equal(crop, image)]
        places.add(place)
    assert len(places) > 40
    assert {mirrored for _, _, mirrored in places} == {False, True}


@pytest.mark.parametrize(
    ("shape", "augment", "augmented"),
    [(COLOURED, None, True), (GREY, None, False), (COLOURED, False, False), (GREY, True, True)],
)
def test_small_colour_images_are_augmented_by_default(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], augment: bool | None, augmented: bool
) -> None:
    seen = []
    monkeypatch.setattr(
        "benchmark.targets.loading.recipe.shift_and_flip", lambda x, _: seen.append(len(x)) or x
    )
    split = TensorSplit(torch.rand(8, *shape), torch.arange(8))
    data = TrainingData(split, split, shape, 10, torch.device("cpu"))
    model = Tiny(TinyConfig(epochs=1, min_steps=0, batch_size=4, augment=augment), shape).train()
    model.fit(data, torch.Generator())
    assert seen == ([4, 4] if augmented else [])


# --- adversarial training -------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [{"attack": "fgsm"}, {"attack": "pgd", "steps": 4}])
def test_adversarial_training_lowers_the_robust_error(attack: dict[str, Any]) -> None:
    plain, hardened = _trained(epochs=3), _trained(epochs=4, adversarial=attack | {"eps": 0.1})
    assert error(hardened, *_validation()) < 0.2
    assert _robust_error(plain, 0.1) > 0.6
    assert _robust_error(hardened, 0.1) < _robust_error(plain, 0.1) - 0.25


@pytest.mark.parametrize("attack", [{"attack": "fgsm"}, {"attack": "pgd", "steps": 3}])
def test_a_share_of_each_batch_is_attacked_within_a_growing_eps(attack: dict[str, Any]) -> None:
    model = Tiny(TinyConfig(adversarial={"eps": 0.2, "share": 0.25, "warmup": 0.5} | attack)).train()
    images, labels = digits().take(torch.arange(40))
    recipe, generator = model.config.adversarial, torch.Generator().manual_seed(0)
    assert recipe is not None
    loop = Loop(Trainee(), digits(), generator, batch_size=16, steps=8)
    reached = []
    for loop.step in (1, 3, 5, 8):
        found, count = model._with_adversarial(images, labels, recipe, loop, generator)
        assert count == 10
        assert torch.equal(found[10:], images[10:])
        assert found.min() >= 0
        assert found.max() <= 1
        reached.append((found - images).abs().max().item())
    assert reached == pytest.approx([0, 0.1, 0.2, 0.2], abs=0.02)
    assert reached[-1] <= 0.2 + 1e-6


def test_attacking_a_network_in_training_changes_no_state() -> None:
    model = Tiny(TinyConfig()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = torch.get_rng_state()
    x, labels = digits().take(torch.arange(8))
    with frozen_batchnorm(model):
        perturb(model, x, labels, eps=0.1, steps=2)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    model(x)  # afterwards the running averages are updated again
    assert model.state_dict()["layers.1.num_batches_tracked"] == 1
    assert all(weights.grad is None for weights in model.parameters())


def test_an_interrupted_adversarial_training_resumes_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With random starts, dropout and augmentation."""
    monkeypatch.setattr(benchmark.api.training, "CHECKPOINT_SECONDS", 0)

    def model(limit: int | None = None) -> Tiny:
        torch.manual_seed(0)
        recipe = {"attack": "pgd", "eps": 0.1, "steps": 2}
        config = TinyConfig(epochs=1, min_steps=0, batch_size=200, augment=True, adversarial=recipe)
        made = Tiny(config).train()
        made.checkpoints = memory
        return made

    def fit(made: Tiny) -> dict[str, Tensor]:
        made.fit(digits(), torch.Generator().manual_seed(0))
        return made.state_dict()

    memory = Memory()
    whole = fit(model())
    memory = Memory()
    cut = model()
    cut.reporter = lambda done, total, figures: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(cut)  # in the last step
    state = memory.load()
    assert state is not None
    assert int(state["loop.step"]) == 4
    again = fit(model())
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def _problems(target: dict[str, Any]) -> str:
    grid = {
        "datasets": ["digits"],
        "targets": [target],
        "defenses": ["identity"],
        "attacks": [{"name": "fgsm", "eps": 0.1}],
        "threats": ["black-box"],
    }
    with pytest.raises(UserError) as caught:
        load_grid(grid, REGISTRY)
    return str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"adversarial": {"atack": "pgd", "eps": 0.2}}, "adversarial has no parameter 'atack'"),
        ({"adversarial": {"attack": "pgd"}}, "adversarial needs 'eps'"),
        ({"adversarial": {"attack": "pgd", "eps": 3}}, "adversarial: eps = 3: Input should be less than"),
        ({"adversarial": {"attack": "cw", "eps": 0.1}}, "adversarial: attack = 'cw': Input should be 'fgsm'"),
        ({"adversarial": "pgd"}, "must be a mapping of attack, eps, steps, share, warmup"),
        ({"adversarial": {"attack": "fgsm", "eps": 0.2, "steps": 3}}, "fgsm takes one step"),
        ({"momentum": 0.5}, "momentum is sgd's"),
    ],
)
def test_mistakes_in_the_recipe_are_explained(parameters: dict[str, Any], message: str) -> None:
    text = _problems({"name": "mnist-c"} | parameters)
    assert message in text
    assert "mnist-c" in text


def test_a_mistake_inside_a_nested_mapping_is_shown_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        "datasets: [digits]\ndefenses: [identity]\nattacks: [noise]\nthreats: [black-box]\n"
        "targets:\n  - name: mnist-c\n    adversarial:\n      attack: pgd\n      eps: 0.2\n      stepz: 4\n"
    )
    with pytest.raises(UserError) as caught:
        load_grid(path, REGISTRY)
    (problem,) = caught.value.problems
    assert problem.line == 10
    assert problem.hint == "its parameters: attack, eps, steps, share, warmup"


def test_equal_recipes_have_equal_configurations() -> None:
    def resolved(**parameters: Any) -> dict[str, Any]:
        config = RecipeConfig(**parameters).model_dump(mode="json")
        assert RecipeConfig(**config).model_dump(mode="json") == config  # as when it is read from a plan
        return config

    pgd = {"attack": "pgd", "eps": 0.2}
    assert resolved(adversarial=pgd) == resolved(adversarial=pgd | {"steps": 10, "share": 0.5})
    assert resolved(adversarial=pgd) != resolved(adversarial=pgd | {"attack": "fgsm"})
    assert resolved(optimizer="sgd") == resolved(optimizer="sgd", momentum=0.9)


def test_tables_distinguish_an_adversarially_trained_target(small_run: Runner) -> None:
    configs = [RecipeConfig(), RecipeConfig(adversarial={"attack": "pgd", "eps": 0.2})]
    texts = [canonical(config.model_dump(mode="json")) for config in configs]
    records = small_run(threats=["black-box"])
    both = pd.concat([records.assign(target="mnist-c", target_config=text) for text in texts])
    headings = [line for line in markdown(both, "t").splitlines() if line.startswith("## ")]
    assert headings == [
        "## digits, mnist-c (n = 60)",
        "## digits, mnist-c (adversarial pgd eps 0.2 share 0.5 steps 10 warmup 0.25) (n = 60)",
    ]


# --- torchvision's networks -----------------------------------------------------------------------------


def _imagenet(
    name: str, shape: tuple[int, int, int] = (3, 64, 64), classes: int = 1000
) -> PretrainedTarget[Any]:
    cls = REGISTRY.get("target", name).load()
    model = cls(cls.config_type()(), shape, classes)  # type: ignore[call-arg]
    assert isinstance(model, PretrainedTarget)
    return model


@pytest.mark.parametrize("name", ["resnet50", "inception-v3"])
def test_imagenet_networks_refuse_other_data(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} takes RGB images, got 1"):
        _imagenet(name, (1, 28, 28))
    with pytest.raises(ValueError, match=f"the classes of {name} are the 1,000 of ImageNet, got 10"):
        _imagenet(name, classes=10)


@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet50", "resnet50-0676ba61.pth"), ("inception-v3", "inception_v3_google-0cc3c7bd.pth")],
)
def test_without_network_the_message_names_the_file_and_its_folder(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(PluginError) as caught:
        _imagenet(name).load(frozenset())
    assert "no network" in str(caught.value)
    assert f"put https://download.pytorch.org/models/{file} into {tmp_path}/hub/checkpoints" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("name", "builder", "file", "size", "mean", "std"),
    [
        ("resnet50", "resnet50", "resnet50-0676ba61.pth", 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        # trained on pixels from -1 to 1, although torchvision states other means
        ("inception-v3", "inception_v3", "inception_v3_google-0cc3c7bd.pth", 299, [0.5] * 3, [0.5] * 3),
    ],
)
def test_the_checksum_of_a_file_copied_by_hand_is_verified(
    name: str,
    builder: str,
    file: str,
    size: int,
    mean: list[float],
    std: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    arguments = {"init_weights": False} if builder == "inception_v3" else {}
    network = getattr(models, builder)(**arguments)
    torch.save(network.state_dict(), folder / file)
    began = file.rpartition("-")[2].removesuffix(".pth")
    with pytest.raises(PluginError, match=rf"{re.escape(file)} does not begin with {began}"):
        _imagenet(name).load(frozenset())

    digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()[:8]
    renamed = file.replace(began, digest)
    (folder / file).rename(folder / renamed)
    model = _imagenet(name)
    weights = model._weights(model.config)
    monkeypatch.setattr(weights.value, "url", f"https://download.pytorch.org/models/{renamed}")
    model.load(frozenset())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        scores = model.eval()(x)
        large = nn.functional.interpolate(x, (size, size), mode="bilinear")
        normalised = (large - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        expected = network.eval()(normalised)
    assert scores.shape == (2, 1000)
    assert torch.allclose(scores, expected, atol=1e-3)


def test_images_of_the_right_size_are_not_resampled() -> None:
    network = Preprocessed(nn.Identity(), size=16, mean=[0.5], std=[0.25])
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(network(x), (x - 0.5) / 0.25)
    small = torch.rand(2, 1, 8, 8)
    assert network(small).shape == (2, 1, 16, 16)


def test_models_of_the_papers_follow_their_tables() -> None:
    model = CifarD(CifarCnnConfig(), COLOURED, 10)
    sizes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sizes == [
        (64, 3, 3, 3),
        (64, 64, 3, 3),
        (128, 64, 3, 3),
        (128, 128, 3, 3),
        (256, 3200),
        (256, 256),
        (10, 256),
    ]
    assert MnistC(RecipeConfig(), GREY, 10)(torch.rand(1, *GREY)).shape == (1, 10)
