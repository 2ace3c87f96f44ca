"""The rows of `actions.py` that run what `vdd_jax.export` writes, without JAX in a call."""

import numpy as np
from step import Unavailable

from vdd_jax import export, export_onnx, numpy_policy


def numpy_actor(policy, threads: int):
    """(what is seen, number of the call) → actions `[B, A]`, and versions."""
    header, arrays = export.numpy_content(policy)
    ours, rng = numpy_policy.NumpyPolicy(header, arrays), np.random.default_rng(0)

    def act(seen, number: int) -> np.ndarray:
        return ours.act(numpy_policy.History(seen.states, goal=seen.goals), rng)

    return act, {"numpy": np.__version__}


def onnx_actor(policy, threads: int):
    """The same by ONNX Runtime: gating and means, of which the drawn expert's is taken in NumPy.

    Raises:
      Unavailable: without the packages.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error
    model = export_onnx.lower(export.function_of(policy), export.inputs_of(policy))
    options, asked = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    options.intra_op_num_threads = threads
    asked.only_execute_path_to_fetches = True  # not the covariances
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)

    def act(seen, number: int) -> np.ndarray:
        log_weights, means = session.run(
            ["log_weights", "means"],
            {"observations": seen.states, "goal": seen.goals,
             "valid": np.ones(seen.states.shape[:2], bool)}, asked)
        expert = (log_weights + rng.gumbel(size=log_weights.shape)).argmax(axis=1)
        return means[np.arange(len(means)), expert]

    return act, {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
