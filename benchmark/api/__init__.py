"""Everything that a plugin imports. A defense needs this line:

    from benchmark.api import Config, Defense, Noise, Tensor, defense

The modules `attack`, `defense`, `target` and `dataset` have the base class of each kind of plugin. The other
modules have functions and classes that several plugins use.
"""

from torch import Tensor

from benchmark.api.adversarial_training import frozen_batchnorm, perturb
from benchmark.api.attack import Attack, Knowledge, Surface, attack
from benchmark.api.balls import Ball, BallConfig, choose, lengths, most_wrong, per_image
from benchmark.api.dataset import (
    Dataset,
    EmptySplit,
    Split,
    TensorSplit,
    TrainingData,
    class_balanced_order,
    dataset,
    proportional_order,
)
from benchmark.api.defense import Defense, Scorer, Surrogate, defense
from benchmark.api.losses import loss_gradient, margin, unit
from benchmark.api.noise import Noise
from benchmark.api.shapes import require_small_images
from benchmark.api.target import PretrainedTarget, Target, target
from benchmark.api.training import Loop, steps_of
from benchmark.errors import MissingImagesError, PluginError, Problem, UserError, format_exception
from benchmark.files.digests import digest_of_file, shown
from benchmark.files.writing import replacing
from benchmark.plugins.fingerprint import own_fingerprint, release
from benchmark.plugins.importing import import_file, import_module
from benchmark.plugins.opened_files import unwatched
from benchmark.plugins.plugin import (
    Config,
    ConfigT,
    FilePath,
    Norm,
    file,
    infer,
    param,
    sweep,
    train,
    unkeyed,
)
from benchmark.plugins.trust import UNTRUSTABLE, Trust, consent_hint, is_importable, is_untrustable

# fmt: off
__all__ = [
    "UNTRUSTABLE", "Attack", "Ball", "BallConfig", "Config", "ConfigT", "Dataset", "Defense",
    "EmptySplit", "FilePath", "Knowledge", "Loop", "MissingImagesError", "Noise", "Norm", "PluginError",
    "PretrainedTarget", "Problem", "Scorer", "Split", "Surface", "Surrogate", "Target", "Tensor",
    "TensorSplit", "TrainingData", "Trust", "UserError", "attack", "choose", "class_balanced_order",
    "consent_hint", "dataset", "defense", "digest_of_file", "file", "format_exception",
    "frozen_batchnorm", "import_file", "import_module", "infer", "is_importable", "is_untrustable",
    "lengths", "loss_gradient", "margin", "most_wrong", "own_fingerprint", "param", "per_image",
    "perturb", "proportional_order", "release", "replacing", "require_small_images", "shown", "steps_of",
    "sweep", "target", "train", "unit", "unkeyed", "unwatched",
]
# fmt: on
