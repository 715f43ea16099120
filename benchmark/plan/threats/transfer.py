"""The transfer threat: the attacker knows neither target nor defense, and trains substitutes."""

from __future__ import annotations

from dataclasses import replace

from benchmark.plan.specs import TargetSpec
from benchmark.plan.tasks import Candidate, Craft, SurfaceSpec, TrainSubstitute, TrainTarget, surface_forms
from benchmark.plan.threats.base import Setting, Threat

_ROLE = "substitute"


class Transfer(Threat):
    """The attacker knows neither target nor defense, and may query the deployed pipeline for labels.

    The attacker trains substitutes, attacks them, and shows the images to the pipeline. The substitutes are:
    - another architecture and another seed, both trained on the training images;
    - one trained on 150 images and ever more queries (Papernot et al. 2017);
    - for trained attacks, two distilled from the labels of the pipeline: one once, and one in turn with the
      training of the attack (Xiao et al. 2018).

    Besides the training images, the attacker uses validation images, which the target was not trained on.
    """

    name = "transfer"
    meaning = "knows neither target nor defense, may query for labels, and attacks classifiers of its own"
    title = "transfer error"
    probes = ()
    images_made_on_target = True

    @classmethod
    def refuses_target(cls, target: TrainTarget, substitutes: tuple[TargetSpec, ...]) -> str | None:
        others = [spec for spec in substitutes if spec.name != target.target.name and spec.trainable]
        if others or target.target.trainable:
            return None
        return f"no classifier is known that the attacker could train in the place of {target.label}"

    @classmethod
    def refuses_images_of(cls, base: str | None) -> str | None:
        return base and f"craft_on {base}: {cls.name} makes its images on classifiers of the attacker's"

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        routes = [("clean", None), *_crafts(setting).items()]
        return tuple(setting.candidate(route, craft) for route, craft in routes)

    @classmethod
    def baseline(cls, setting: Setting) -> tuple[Craft, ...]:
        return tuple(_crafts(setting).values())


def _crafts(setting: Setting) -> dict[str, Craft]:
    """The attack on each substitute, by route."""
    target, intern = setting.target, setting.intern
    oracle = setting.surface(surface_forms.QUERY)
    other = next((spec for spec in setting.substitutes if spec.name != target.target.name), None)
    architecture = other or target.target

    def distil(how: str, start: TrainSubstitute | None = None) -> TrainSubstitute:
        seed = architecture.seed(target.seed)
        return intern(TrainSubstitute, target.dataset, architecture, _ROLE, seed, oracle, how, start)

    def craft(model: TrainTarget) -> Craft:
        return setting.craft_on_surface(intern(SurfaceSpec, surface_forms.TARGET, model))

    crafts: dict[str, Craft] = {}
    if target.target.trainable:
        crafts["other-seed"] = craft(intern(TrainTarget, target.dataset, target.target, _ROLE, target.seed))
    if other is not None:
        model = intern(TrainTarget, target.dataset, other, _ROLE, other.seed(target.seed))
        crafts["other-architecture"] = craft(model)
    crafts["jacobian"] = craft(distil("jacobian"))
    if setting.attack.trainable:
        static = distil("distilled")
        crafts["distilled"] = craft(static)
        dynamic = replace(distil("dynamic", static), generator=crafts["distilled"].training)
        crafts["distilled-in-turn"] = craft(dynamic)
    return crafts
