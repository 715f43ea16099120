"""Image quality (PSNR, SSIM, norms) and statistics (Wilson, McNemar, Holm)."""

TOLERANCE = 1e-6
"""How far float32 rounding may carry an image out of its ball or out of [0, 1]."""
