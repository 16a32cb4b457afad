"""Roll-outs on torch: the same draws and the same game as with numpy, on a GPU where there is one.

Needs torch, of the extra `encoder`, when `torch_arrays` is called; nothing else in policies/ uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.rollout_plan import Arrays

if TYPE_CHECKING:
    from policies.batch import FloatArray

TOGETHER = 1 << 27
"""Numbers of an array, 1 GB: a GPU is fast with all worlds at once."""


def torch_arrays(device: str | None = None) -> Arrays:
    """For `policies.rollouts.roll_out`. `device`: None is "cuda" where there is one, else "cpu"; numbers are float64.

    Raises:
        ModuleNotFoundError: torch is not installed.
        ValueError: torch has no such device.
    """
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        at = torch.device(name)
        torch.zeros(1, device=at)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device = {name!r}: torch cannot compute there ({error}); use None or 'cpu'") from error

    def take(values: FloatArray) -> Any:
        return torch.as_tensor(values, dtype=torch.float64, device=at)

    def give(values: Any) -> FloatArray:
        found: FloatArray = values.cpu().numpy()
        return found

    return Arrays(torch, take, give, TOGETHER)
