"""The checks of `bench check`: one function for each line of its report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor

from benchmark.api.noise import Noise
from benchmark.errors import PluginError
from benchmark.execution.purifier import PurifierModule
from benchmark.plugins.plugin import Config
from benchmark.storage.store import unshared_copies
from benchmark.testing.defense_under_test import CLASSES, DefenseUnderTest

_TOLERANCE = 1e-5
"""Largest difference of a pixel that rounding may cause if images are computed in other batches."""

_CUDA_TOLERANCE = 1e-4

_BATCH = 16

Verdict = tuple[bool | None, str]
"""Whether the check passed (None: it does not apply), and the finding or the reason."""


def _training(under_test: DefenseUnderTest) -> Verdict:
    if not under_test.kind.trainable:
        return None, "not trainable"
    try:
        return True, under_test.train()
    except BaseException:
        under_test.defense = under_test.make(0)
        raise


def _output(under_test: DefenseUnderTest) -> Verdict:
    under_test.assemble()
    low, high = (bound.item() for bound in torch.aminmax(under_test.reference))
    x = under_test.images[:1].clone()
    with torch.no_grad():
        under_test.module.parts[0].purify(x, Noise(7, [0]))
    if not torch.equal(x, under_test.images[:1]):
        raise PluginError(f"defense {under_test.kind.name} changed its input in place")
    return True, f"images of the input's shape, values from {low:.3g} to {high:.3g}"


def _speed(under_test: DefenseUnderTest) -> Verdict:
    single = f"{_milliseconds(under_test.seconds)} per image"
    if under_test.slow:
        setting = "" if under_test.module is under_test.full else "with the setting for attacks, "
        return True, f"{single}: the checks below compare outputs {setting}on {len(under_test.images)} images"
    return True, f"{single} alone, {_milliseconds(under_test.time(_BATCH) / _BATCH)} in a batch of {_BATCH}"


def _repeated(under_test: DefenseUnderTest) -> Verdict:
    difference = _difference(under_test.purify(under_test.images), under_test.reference)
    if difference > _tolerance(under_test):
        return False, f"a second call changes pixels by up to {difference:.3g}: it keeps state or draws noise"
    return True, "the same seed gives the same output in every call"


def _global_generators(under_test: DefenseUnderTest) -> Verdict:
    difference = _difference(under_test.purify(under_test.images, global_seed=2), under_test.reference)
    if difference > _tolerance(under_test):
        return False, f"draws from global generators, not `noise`: pixels change by up to {difference:.3g}"
    return True, "have no effect"


def _effect(under_test: DefenseUnderTest) -> Verdict:
    change = _difference(under_test.reference, under_test.images)
    if under_test.kind.control:
        return True, f"changes pixels by up to {change:.3g}; a control need not"
    if not change:
        return False, "returns its input; a placebo declares `control = True`"
    one, other = (under_test.purify(x, [0]) for x in (under_test.images[:1], under_test.images[1:2]))
    if torch.equal(one, other):
        return False, "returns the same image for different inputs"
    return True, f"changes pixels by up to {change:.3g}"


def _batch(under_test: DefenseUnderTest) -> Verdict:
    x, count = under_test.images, len(under_test.images)
    alone = torch.cat([under_test.purify(x[i : i + 1], [i]) for i in range(count)])
    order = [(i + 1) % count for i in reversed(range(count))]
    permuted = under_test.purify(x[order], order)
    for condition, output in (("alone", alone[order]), ("in another order", permuted)):
        if (difference := _difference(output, under_test.reference[order])) > _TOLERANCE:
            return False, f"an image purified {condition} differs by up to {difference:.3g}"
    return True, "an image gives the same output alone, among others and in another order"


def _stochastic(under_test: DefenseUnderTest) -> Verdict:
    difference = _difference(under_test.purify(under_test.images, seed=8), under_test.reference)
    declared, found = under_test.kind.stochastic, difference > _tolerance(under_test)
    if declared and not found:
        return False, "declares `stochastic = True`, but two noise seeds give the same output"
    if found and not declared:
        return False, f"two noise seeds change pixels by up to {difference:.3g}: declare `stochastic = True`"
    return True, f"it is: two noise seeds change pixels by up to {difference:.3g}" if found else "it is not"


def _decides(under_test: DefenseUnderTest) -> Verdict:
    if not under_test.kind.decides_label:
        return None, "decides no labels"
    images, labels = under_test.decide()
    difference = _difference(images, under_test.reference)
    if difference > _tolerance(under_test):
        return False, f"purify_and_decide() and purify() return images that differ by {difference:.3g}"
    if labels is None or labels.dtype != torch.int64:
        return False, f"labels must be int64, got {None if labels is None else labels.dtype}"
    if labels.min() < 0 or labels.max() >= CLASSES:
        return False, f"labels from {labels.min()} to {labels.max()}, but there are {CLASSES} classes"
    return True, f"labels of {len(labels)} images"


def _in_attack(under_test: DefenseUnderTest) -> Verdict:
    config = under_test.config
    cheaper: Config | None = under_test.kind.in_attack(config)
    if cheaper is None:
        return None, "attacks use the same setting"
    type(config)(**cheaper.model_dump())  # model_copy() does not validate
    infer = config.fields_marked("infer")
    changed = [name for name in type(config).model_fields if getattr(cheaper, name) != getattr(config, name)]
    wrong = [name for name in changed if name not in infer]
    if wrong:
        return False, f"changes {', '.join(wrong)}: only `infer` fields may change, not those of weights"
    module, x = under_test.in_attack(), under_test.images[:1]
    first, second = (under_test.purify(x, module=module) for _ in range(2))
    difference = _difference(first, second)
    if difference > _tolerance(under_test):
        return False, f"forget() leaves state behind: pixels change by up to {difference:.3g}"
    return True, f"changes {', '.join(changed) or 'nothing'}"


def _with_gradients(under_test: DefenseUnderTest) -> Verdict:
    difference = _difference(under_test.differentiated[0], under_test.reference)
    if difference > _TOLERANCE:
        return False, f"with gradients on, the output differs by up to {difference:.3g}"
    return True, "on or off, the output is the same"


def _gradient(under_test: DefenseUnderTest) -> Verdict:
    gradient = under_test.differentiated[1]
    if gradient is None:
        return True, "absent: attacks replace its backward pass by the identity"
    if not torch.isfinite(gradient).all():
        return False, "not finite: attacks that follow it stop"
    return True, "nonzero" if gradient.any() else "zero: attacks replace its backward pass by the identity"


def _saved(under_test: DefenseUnderTest) -> Verdict:
    weights = unshared_copies(under_test.defense.state_dict())
    fresh = under_test.make(99)
    fresh.load_state_dict(load(save(weights)) if weights else {})
    images, expected = under_test.images, under_test.reference
    if under_test.slow:
        images, expected = images[:1], under_test.first
    difference = _difference(under_test.purify(images, module=PurifierModule([fresh])), expected)
    if difference > _tolerance(under_test):
        return False, f"a fresh instance with the saved weights changes pixels by up to {difference:.3g}"
    loaded = f"with its {len(weights)} tensors" if weights else "without weights"
    return True, f"a fresh instance {loaded} gives the same output"


def _cuda(under_test: DefenseUnderTest) -> Verdict:
    if not torch.cuda.is_available():
        return None, "there is no CUDA device"
    outputs = []
    # TF32 would change the results of every plugin
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for device in (torch.device("cpu"), torch.device("cuda")):
            module = copy.deepcopy(under_test.module).to(device)
            outputs.append(under_test.purify(under_test.images.to(device), module=module).cpu())
    difference = _difference(*outputs)
    return difference <= _CUDA_TOLERANCE, f"differs from the output on the CPU by up to {difference:.3g}"


CHECKS: Mapping[str, Callable[[DefenseUnderTest], Verdict]] = {
    "training": _training,
    "output": _output,
    "speed": _speed,
    "repeated calls": _repeated,
    "global generators": _global_generators,
    "effect": _effect,
    "batch": _batch,
    "stochastic": _stochastic,
    "decides_label": _decides,
    "in_attack": _in_attack,
    "gradients on or off": _with_gradients,
    "gradient": _gradient,
    "saved weights": _saved,
    "cuda": _cuda,
}
"""The lines of the report, in order."""

DECISIVE = ("output", "repeated calls", "global generators")
"""If one of these fails, the checks after it are skipped, since they would show nothing."""


def _tolerance(under_test: DefenseUnderTest) -> float:
    """Largest difference between equal computations: 0 on a CPU. On CUDA the order of sums varies."""
    return 0.0 if under_test.device.type == "cpu" else _TOLERANCE


def _difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds > 0.1 else f"{1000 * seconds:.2g} ms"
