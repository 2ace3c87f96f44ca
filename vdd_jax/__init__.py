"""vdd_jax: diffusion policies distilled into single-pass Gaussian mixtures of experts."""
