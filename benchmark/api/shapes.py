"""Checks of image shapes, for constructors of defenses and targets."""


def require_small_images(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError with the plugin's `name` if images (C, H, W) are neither 28×28 nor 32×32."""
    _, height, width = image_shape
    if (height, width) not in ((28, 28), (32, 32)):
        raise ValueError(f"{name} takes 28×28 or 32×32 images, got {height}×{width}")
