"""Programs for a device that is not there."""

import pytest


def lowered_for(traced, platform: str) -> str:
    """The text of a traced function, lowered for a platform; the test is skipped where JAX lowers
    kernels for Triton beside a GPU alone (0.12)."""
    try:
        return traced.lower(lowering_platforms=(platform,)).as_text()
    except RuntimeError as error:
        if "No supported GPU devices found" not in str(error):
            raise
        pytest.skip("this JAX needs a GPU to lower a kernel for one")
