"""The package: floors, not pins; everything that is not needed to distil is an extra."""

from pathlib import Path

from setuptools import find_packages, setup

PLOT = ["matplotlib>=3.8"]
SIM = ["mujoco>=3.3,<4", "pillow>=10"]  # images: official ones, and films
# of it the files and the robot are used, which run in all of SIM's range
KITCHEN = ["gymnasium-robotics>=1.3", *SIM]
EXPORT = ["flatbuffers>=24.3", "onnx>=1.16", "onnxruntime>=1.18"]
HDF5 = ["h5py>=3.10"]  # demonstrations of robomimic, of Minari, of D4RL, and our own layout
LEROBOT = ["pyarrow>=15"]
TENSORBOARD = ["tensorboardX>=2.6"]
WANDB = ["wandb>=0.17"]
TORCH = ["torch>=2.6"]  # published checkpoints are read with it, benchmarks compare with it
TEST = ["pytest>=8", "pytest-xdist>=3.7", "scipy>=1.11", "ruff>=0.6", "nbclient>=0.10",
        "ipykernel>=6.29", *EXPORT, *HDF5, *KITCHEN, *LEROBOT, *PLOT, *TENSORBOARD]

setup(
    name="vdd_jax",
    version="0.1.0",
    description="Diffusion policies distilled into single-pass Gaussian mixtures of experts",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["vdd_jax", "vdd_jax.*"]),
    install_requires=[
        "absl-py>=2.1",
        "chex>=0.1.90",
        "flax>=0.12",
        "jax>=0.10",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
    ],
    extras_require={
        "export": EXPORT, "hdf5": HDF5, "kitchen": KITCHEN, "lerobot": LEROBOT, "plot": PLOT,
        "sim": SIM, "tensorboard": TENSORBOARD, "test": TEST, "torch": TORCH, "wandb": WANDB,
    },
)
