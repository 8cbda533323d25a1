"""The head's log-probabilities with a backward pass that never holds all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class HeadLogps(torch.autograd.Function):
    """log softmax(h W^T)[y], with d/dh = g (W[y] - p W) and d/dW = sum of g (e_y - p) h^T.

    The gradient of h is linear in the one number g that comes back for each token. So where W is
    frozen it is made in the forward pass, while the logits are there; where W is trained, the
    logits are made a second time, and the normalizers are kept from the first. Under mixed
    precision h is narrower than W, which is cast; what W learns adds up in its own dtype.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        """The log-probabilities, a chunk at a time."""
        ctx.chunk = chunk
        master, weight = weight, weight.to(hidden.dtype)
        frozen = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        slopes = torch.empty_like(hidden) if frozen else None
        logps, normalizers = [], []
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight)
            normalizer = logits.logsumexp(-1, keepdim=True)
            normalizers.append(normalizer)
            logps.append((logits.gather(-1, targets[part].unsqueeze(-1)) - normalizer).squeeze(-1))
            if slopes is not None:
                residual = _residual(logits, normalizer, targets[part])
                torch.mm(residual.to(weight.dtype), weight, out=slopes[part])
                del residual
            del logits  # or they would be there beside the next ones
        if slopes is not None:
            ctx.save_for_backward(slopes)
        else:
            ctx.save_for_backward(hidden, master, targets, torch.cat(normalizers))
        ctx.frozen = frozen
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of hidden states and of the head's weight."""
        if ctx.frozen:
            (slopes,) = ctx.saved_tensors
            return slopes * gradient.unsqueeze(-1).to(slopes.dtype), None, None, None
        hidden, master, targets, normalizers = ctx.saved_tensors
        weight = master.to(hidden.dtype)
        hidden_gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.zeros_like(master)
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = _logits(hidden[part], weight)
            residual = _residual(logits, normalizers[part], targets[part])
            residual = residual.mul_(gradient[part].unsqueeze(-1)).to(weight.dtype)
            if hidden_gradient is not None:
                torch.mm(residual, weight, out=hidden_gradient[part])
            if master.dtype == hidden.dtype:
                weight_gradient.addmm_(residual.T, hidden[part])
            else:
                weight_gradient += residual.T @ hidden[part]
            del logits, residual
        return hidden_gradient, weight_gradient, None, None


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    logits = nn.functional.linear(hidden, weight)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _residual(logits: Tensor, normalizer: Tensor, targets: Tensor) -> Tensor:
    """One-hot minus probabilities, in the logits' own memory."""
    negative = logits.sub_(normalizer).exp_().neg_()
    ones = negative.new_ones(len(targets), 1)
    return negative.scatter_add_(-1, targets.unsqueeze(-1), ones)
