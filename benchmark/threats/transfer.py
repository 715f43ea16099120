"""The attacker who knows neither target nor defense, and trains classifiers in their place."""

from __future__ import annotations

from dataclasses import replace

from benchmark.refs import TargetRef
from benchmark.tasks import Candidate, Craft, SurfaceSpec, TrainSubstitute, TrainTarget
from benchmark.threats.contract import Setting, Threat

_ROLE = "substitute"


class Transfer(Threat):
    """Attack classifiers that the attacker trained, and show the images to the pipeline.

    Another architecture and another seed, both trained on the training images; one that learns from 150
    images and ever more queries (Papernot et al. 2017); and for trained attacks classifiers distilled from
    the pipeline's labels, once and in turn with the attack (Xiao et al. 2018). What is asked and learned from
    beside the training images are validation images, which the target was not trained on.
    """

    name = "transfer"
    meaning = "knows neither target nor defense, may ask for labels, and attacks classifiers of its own"
    title = "transfer error"
    probes = ()
    images_made_on_target = True

    @classmethod
    def refuses_target(cls, target: TrainTarget, substitutes: tuple[TargetRef, ...]) -> str | None:
        others = [ref for ref in substitutes if ref.name != target.target.name and ref.trainable]
        if others or target.target.trainable:
            return None
        return f"no classifier is known that the attacker could train in the place of {target.label}"

    @classmethod
    def refuses_images_of(cls, base: str | None) -> str | None:
        return base and f"craft_on {base}: {cls.name} makes its images on classifiers of the attacker's"

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        routes = [setting.candidate("clean", None)]
        return (*routes, *(setting.candidate(*route) for route in cls._routes(setting)))

    @classmethod
    def baseline(cls, setting: Setting) -> tuple[Craft, ...]:
        return tuple(craft for _, craft in cls._routes(setting))

    @classmethod
    def _routes(cls, setting: Setting) -> list[tuple[str, Craft]]:
        target, oracle = setting.target, setting.surface("pipeline-query")
        other = next((ref for ref in setting.substitutes if ref.name != target.target.name), None)
        once, data = setting.once, (target.dataset,)
        models: dict[str, TrainTarget] = {}
        if target.target.trainable:
            models["other-seed"] = once(TrainTarget, *data, target.target, _ROLE, target.seed)
        if other is not None:
            models["other-architecture"] = once(TrainTarget, *data, other, _ROLE, other.seed(target.seed))

        def taught(how: str, start: TrainSubstitute | None = None) -> TrainSubstitute:
            seed = recipe.seed(target.seed)
            return once(TrainSubstitute, *data, recipe, _ROLE, seed, oracle, how, start)

        recipe = other or target.target
        models["jacobian"] = taught("jacobian")

        def craft(model: TrainTarget) -> Craft:
            return setting.run_on(once(SurfaceSpec, "target", model))

        routes = {name: craft(model) for name, model in models.items()}
        if setting.attack.trainable:
            static = taught("distilled")
            routes["distilled"] = craft(static)
            routes["distilled-in-turn"] = craft(
                replace(taught("dynamic", static), generator=routes["distilled"].training)
            )
        return list(routes.items())
