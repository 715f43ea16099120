"""What `bench check` looks at, one function for each line of its report."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor

from benchmark.errors import PluginError
from benchmark.noise import Noise
from benchmark.plugin import Config
from benchmark.purifier import PurifierModule
from benchmark.specimen import CLASSES, Specimen
from benchmark.store import apart_in_memory

_SAME = 1e-5
"""How far rounding may carry a pixel when the images are computed in other batches."""

_SAME_ON_CUDA = 1e-4

_BATCH = 16

Verdict = tuple[bool | None, str]
"""Whether all is well (None: the check does not apply), and the reason or what was found."""


@dataclass(frozen=True)
class Check:
    """One line of the report. `decisive`: once it has failed, the checks after it would judge nothing."""

    subject: str
    judge: Callable[[Specimen], Verdict]
    decisive: bool = field(default=False, kw_only=True)


def _training(specimen: Specimen) -> Verdict:
    if not specimen.kind.trainable:
        return None, "not trainable"
    try:
        return True, specimen.train()
    except BaseException:
        specimen.restart()
        raise


def _output(specimen: Specimen) -> Verdict:
    specimen.assemble()
    low, high = (bound.item() for bound in torch.aminmax(specimen.reference))
    x = specimen.images[:1].clone()
    with torch.no_grad():
        specimen.module.parts[0].purify(x, Noise(7, [0]))
    if not torch.equal(x, specimen.images[:1]):
        raise PluginError(f"defense {specimen.kind.name} changed its input in place")
    return True, f"images like the input, from {low:.3g} to {high:.3g}"


def _speed(specimen: Specimen) -> Verdict:
    alone = f"{_milliseconds(specimen.seconds)} an image"
    if specimen.slow:
        setting = "" if specimen.module is specimen.full else "with the setting for attacks, "
        return True, f"{alone}: the checks below compare outputs {setting}on {len(specimen.images)} images"
    return True, f"{alone} alone, {_milliseconds(specimen.time(_BATCH) / _BATCH)} in a batch of {_BATCH}"


def _repeated(specimen: Specimen) -> Verdict:
    apart = _apart(specimen.purify(specimen.images), specimen.reference)
    if apart > _exactly(specimen):
        return False, f"the same call again gives pixels up to {apart:.3g} apart: it keeps or draws something"
    return True, "the same seed gives the same output at every call"


def _global_generators(specimen: Specimen) -> Verdict:
    apart = _apart(specimen.purify(specimen.images, world=2), specimen.reference)
    if apart > _exactly(specimen):
        return False, f"draws from global generators, not from `noise`: pixels up to {apart:.3g} apart"
    return True, "do not matter"


def _effect(specimen: Specimen) -> Verdict:
    change = _apart(specimen.reference, specimen.images)
    if specimen.kind.control:
        return True, f"changes pixels by up to {change:.3g}; a control need not"
    if not change:
        return False, "gives its input back; a placebo says `control = True`"
    one, other = (specimen.purify(x, [0]) for x in (specimen.images[:1], specimen.images[1:2]))
    if torch.equal(one, other):
        return False, "gives the same image whatever it is given"
    return True, f"changes pixels by up to {change:.3g}"


def _batch(specimen: Specimen) -> Verdict:
    x, count = specimen.images, len(specimen.images)
    alone = torch.cat([specimen.purify(x[i : i + 1], [i]) for i in range(count)])
    order = [(i + 1) % count for i in reversed(range(count))]
    permuted = specimen.purify(x[order], order)
    for how, apart in (
        ("alone", _apart(alone, specimen.reference)),
        ("in another order", _apart(permuted, specimen.reference[order])),
    ):
        if apart > _SAME:
            return False, f"an image purified {how} comes out up to {apart:.3g} apart"
    return True, "an image is purified alike alone, among others and in another order"


def _stochastic(specimen: Specimen) -> Verdict:
    apart = _apart(specimen.purify(specimen.images, seed=8), specimen.reference)
    declared, found = specimen.kind.stochastic, apart > _exactly(specimen)
    if declared and not found:
        return False, "says `stochastic = True`, but two seeds of noise give the same output"
    if found and not declared:
        return False, f"two seeds of noise give pixels up to {apart:.3g} apart: say `stochastic = True`"
    return True, f"it is: two seeds give pixels up to {apart:.3g} apart" if found else "it is not"


def _decides(specimen: Specimen) -> Verdict:
    if not specimen.kind.decides_label:
        return None, "decides no labels"
    images, labels = specimen.decide()
    apart = _apart(images, specimen.reference)
    if apart > _exactly(specimen):
        return False, f"purify_and_decide() gives other images than purify(): up to {apart:.3g} apart"
    if labels is None or labels.dtype != torch.int64:
        return False, f"labels must be int64, got {None if labels is None else labels.dtype}"
    if labels.min() < 0 or labels.max() >= CLASSES:
        return False, f"labels from {labels.min()} to {labels.max()}, where there are {CLASSES} classes"
    return True, f"labels of {len(labels)} images"


def _in_attack(specimen: Specimen) -> Verdict:
    config = specimen.config
    cheaper: Config | None = specimen.kind.in_attack(config)
    if cheaper is None:
        return None, "attacks run the setting itself"
    type(config)(**cheaper.model_dump())  # a copy that was never validated may hold anything
    infer = config.fields_marked("infer")
    changed = [name for name in type(config).model_fields if getattr(cheaper, name) != getattr(config, name)]
    wrong = [name for name in changed if name not in infer]
    if wrong:
        return False, f"changes {', '.join(wrong)}, which weights may depend on: `infer` fields only"
    module, x = specimen.in_attack(), specimen.images[:1]
    first, again = (specimen.purify(x, module=module) for _ in range(2))
    apart = _apart(first, again)
    if apart > _exactly(specimen):
        return False, f"forget() leaves something behind: pixels up to {apart:.3g} apart"
    return True, f"changes {', '.join(changed) or 'nothing'}"


def _with_gradients(specimen: Specimen) -> Verdict:
    apart = _apart(specimen.differentiated[0], specimen.reference)
    if apart > _SAME:
        return False, f"with gradients on, the output is up to {apart:.3g} apart"
    return True, "on or off, the output is the same"


def _gradient(specimen: Specimen) -> Verdict:
    gradient = specimen.differentiated[1]
    if gradient is None:
        return True, "absent: attacks go round it with the identity"
    if not torch.isfinite(gradient).all():
        return False, "not finite: attacks along it break off"
    return True, "nonzero" if gradient.any() else "zero: attacks go round it with the identity"


def _saved(specimen: Specimen) -> Verdict:
    weights = apart_in_memory(specimen.defense.state_dict())
    fresh = specimen.make(99)
    fresh.load_state_dict(load(save(weights)) if weights else {})
    images, expected = (
        (specimen.images[:1], specimen.first) if specimen.slow else (specimen.images, specimen.reference)
    )
    apart = _apart(specimen.purify(images, module=PurifierModule([fresh])), expected)
    if apart > _exactly(specimen):
        return False, f"a fresh instance with the saved weights gives pixels up to {apart:.3g} apart"
    made = f"with its {len(weights)} tensors" if weights else "without weights"
    return True, f"a fresh instance {made} gives the same output"


def _cuda(specimen: Specimen) -> Verdict:
    if not torch.cuda.is_available():
        return None, "no CUDA device here"
    outputs = []
    # TF32 is a choice of arithmetic, no matter of the plugin's
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for device in (torch.device("cpu"), torch.device("cuda")):
            module = copy.deepcopy(specimen.module).to(device)
            outputs.append(specimen.purify(specimen.images.to(device), module=module).cpu())
    apart = _apart(*outputs)
    return apart <= _SAME_ON_CUDA, f"up to {apart:.3g} from the CPU's output"


CHECKS = (
    Check("training", _training),
    Check("output", _output, decisive=True),
    Check("speed", _speed),
    Check("repeated calls", _repeated, decisive=True),
    Check("global generators", _global_generators, decisive=True),
    Check("effect", _effect),
    Check("batch", _batch),
    Check("stochastic", _stochastic),
    Check("decides_label", _decides),
    Check("in_attack", _in_attack),
    Check("gradients on or off", _with_gradients),
    Check("gradient", _gradient),
    Check("saved weights", _saved),
    Check("cuda", _cuda),
)


def _exactly(specimen: Specimen) -> float:
    """How far two like computations may be apart: nothing on a CPU; on CUDA sums come in any order."""
    return 0.0 if specimen.device.type == "cpu" else _SAME


def _apart(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds > 0.1 else f"{1000 * seconds:.2g} ms"
