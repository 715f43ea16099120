"""Building the surface that an attack is run on or trained against."""

from __future__ import annotations

from benchmark.noise import StreamNoise
from benchmark.refs import DatasetRef
from benchmark.tasks import SurfaceSpec
from benchmark.threats.surfaces import MeteredSurface, build_surface
from benchmark.work.workshop import Workshop


def make_surface(spec: SurfaceSpec, data: DatasetRef, workshop: Workshop, seed: int) -> MeteredSurface:
    """The surface as a module in evaluation mode, its meter at zero; `seed` is for random purifiers."""
    dataset = workshop.dataset(data)
    purifier = None
    if spec.purifier is not None:
        purifier = workshop.purifier(spec.purifier, data)
        purifier.noise = StreamNoise(seed)
        purifier.forget()
    surface = build_surface(
        spec.form,
        workshop.target(spec.target),
        purifier,
        spec.draws,
        len(dataset.class_names),
        dataset.image_shape,
    )
    return surface.eval()
