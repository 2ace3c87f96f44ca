"""The mathematics: Gaussians, mixtures, noise schedules, objectives, samplers. JAX only."""
