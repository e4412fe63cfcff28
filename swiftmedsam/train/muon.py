"""The optimizer Muon: the steps of a weight matrix are orthogonal matrices.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; size of the steps as
in Liu et al., "Muon is Scalable for LLM Training", 2025, equation 4. All directions of a matrix
then learn alike, also those in which its gradient is small. `torch.optim.Muon` takes matrices only,
but most weights of v3 belong to convolutions of 3 x 3. Here these are matrices, too.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from swiftmedsam.train.machine.precision import computes_bfloat16

MOMENTUM = 0.95
# Five times a X + b X X^T X + c X X^T X X^T X makes all singular values of X about 1. (Jordan et
# al. chose the numbers for speed: "about" is 0.7 to 1.2.)
ITERATIONS = 5
A, B, C = 3.4445, -4.7750, 2.0315
SMALLEST = 16  # a matrix with a shorter side is left to AdamW
# Root mean square of a usual step of AdamW, in learning rates: both take the same learning rate.
ADAMW_STEP = 0.2


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about the orthogonal matrix that is nearest to `matrix` (M, N)."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    if x.device.type != "cpu" or computes_bfloat16():
        x = x.bfloat16()
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = A * x + (B * gram + C * (gram @ gram)) @ x
    return (x.T if is_tall else x).to(matrix.dtype)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it is the weight of a linear layer, or of a convolution that is not depthwise."""
    if parameter.ndim < 2:
        return False
    inputs = parameter[0].numel() if parameter.shape[1] > 1 else 1
    return min(parameter.shape[0], inputs) >= SMALLEST


class Muon(torch.optim.AdamW):
    """Muon for linear layers and dense convolutions, AdamW for all other parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        """Take the parameters, and sort them by the optimizer that they need."""
        kinds: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in parameters:
            kinds[_is_matrix(parameter)].append(parameter)
        groups = [{"params": found, "orthogonal": kind} for kind, found in kinds.items() if found]
        super().__init__(groups, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step; the gradients of matrices are gone afterwards."""
        for group in self.param_groups:
            for one in group["params"] if group["orthogonal"] else ():
                if one.grad is None:
                    continue
                gradient = one.grad.flatten(1)
                state = self.state[one]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(gradient)
                    state["step"] = torch.zeros(())  # AdamW looks for it when it loads a state
                momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(momentum, MOMENTUM))
                size = ADAMW_STEP * max(update.shape) ** 0.5
                one.mul_(1 - group["lr"] * group["weight_decay"])
                one.add_(update.view(one.shape), alpha=-group["lr"] * size)
                one.grad = None  # AdamW passes over parameters without a gradient
        return super().step(closure)


OPTIMIZERS: dict[str, type[torch.optim.AdamW]] = {"adamw": torch.optim.AdamW, "muon": Muon}
