"""A normaliser as two passes forward and two backward, with the (N, C) tables between them.

What is kept for backward is x, its moments (N, C) and the parameters: a layer keeps what `nn.BatchNorm2d` keeps. Second
derivatives go through the plain differentiable formulation.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from en_bench.norms import programs
from en_bench.norms.autocast import without_autocast
from en_bench.norms.maps import dense, has_its_values, passes_for
from en_bench.norms.moments import Moments, table_dtype
from en_bench.norms.programs import Program
from en_bench.norms.sync import Ranks
from en_bench.norms.tables import Kind, forward_and_vjp, ratio_function
from en_bench.norms.watching import watcher_of

if TYPE_CHECKING:
    from en_bench.norms.base import Norm


def serves(x: Tensor) -> bool:
    """Whether `x` is a plain tensor in plain eager code: no trace, no outer compiler, no functional transform."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.numel() > 0
        and x.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch.autograd.forward_ad._current_level < 0
    )


def normalise(
    norm: "Norm", x: Tensor, batch: Moments | None, ranks: Ranks | None
) -> tuple[Tensor, tuple[Moments, Tensor | None] | None]:
    """The output for `x`; and where batch moments were pooled from it, those, with the count if over `ranks`.

    `batch` holds moments to use instead of pooled ones. A normaliser without batch moments has neither.
    """
    kind: Kind = "alone" if not norm.tracks_running_moments else "given" if batch or ranks else "pooled"
    given = (None, None) if batch is None else batch
    y, mean, var, count = _Normalise.apply(norm, kind, ranks, x, *given, *norm.parameter_tensors())
    return y, None if mean is None else (Moments(mean, var), count)


def run(norm: "Norm", program: Program, x: Tensor, batch: Moments | None) -> Tensor:
    """The output for `x` by the program of the normaliser; where batch moments are pooled, running ones move."""
    kind: Kind = "alone" if not norm.tracks_running_moments else "given" if batch else "pooled"
    y: Tensor = _Run.apply(norm, kind, program, x, *(batch or (None, None)), *norm.parameter_tensors())
    return y


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        norm: "Norm",
        kind: Kind,
        program: Program,
        x: Tensor,
        batch_mean: Tensor | None,
        batch_var: Tensor | None,
        *params: Tensor,
    ) -> Tensor:
        given = None if batch_mean is None or batch_var is None else (batch_mean, batch_var)
        tables = _in(table_dtype(x), params)
        watcher = watcher_of(norm)
        ratios = None if watcher is None else tables[0].new_empty(len(x), len(program.kinds))
        y, moments, batch = programs.forward(norm, program, kind == "pooled", dense(x), given, tables, ratios)
        if watcher is not None and ratios is not None:
            watcher(norm, ratios)
        ctx.norm, ctx.kind, ctx.ranks, ctx.program = norm, kind, None, program
        ctx.save_for_backward(x, moments, *(batch or (None, None)), *params)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, moments, batch_mean, batch_var, *params = ctx.saved_tensors
        batch = None if batch_mean is None else Moments(batch_mean, batch_var)
        if torch.is_grad_enabled() or _is_batched(dy):
            return None, None, None, *_differentiable(ctx, dy, x, batch, params)
        map_ = dense(x)
        # Hooks on saved tensors may have stored them in another dtype.
        moments = moments.to(table_dtype(map_)).contiguous()
        batch = None if batch is None else batch.to(moments.dtype)
        tables = _in(moments.dtype, params)
        wants_dx, wanted = ctx.needs_input_grad[3], ctx.needs_input_grad[6:]
        dx, grads = programs.backward(
            ctx.norm, ctx.program, ctx.kind == "pooled", like(dy, map_), map_, moments, batch, tables, wants_dx
        )
        found = zip(grads, params, wanted, strict=True)
        return None, None, None, dx, None, None, *(g.to(p.dtype) if want else None for g, p, want in found)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        norm: "Norm",
        kind: Kind,
        ranks: Ranks | None,
        x: Tensor,
        batch_mean: Tensor | None,
        batch_var: Tensor | None,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        count = None
        with without_autocast(x.device.type):
            map_ = dense(x)
            passes = passes_for(map_)
            if norm.reads_samples or batch_mean is None or batch_var is None:
                mean, var = passes.moments(map_)
                var = norm.corrected(var, positions_of(map_))
            else:  # any mean will do to centre on
                mean, var = (table.repeat(len(map_), 1) for table in (batch_mean, batch_var))
            if ranks is not None:
                (batch_mean, batch_var), count = ranks.pool(Moments(mean, var), positions_of(map_))
            batch = () if batch_mean is None or batch_var is None else (batch_mean, batch_var)
            tables = _in(mean.dtype, params)
            forward, ctx.vjp = forward_and_vjp(norm, kind, mean)
            scale, shift, *pooled = forward(mean, var, *batch, *tables)
            if (watcher := watcher_of(norm)) is not None:
                watcher(norm, ratio_function(norm, kind, mean)(mean, var, *batch, *tables)[0])
            y = passes.affine(map_, mean, scale, shift)
        ctx.norm, ctx.kind, ctx.ranks, ctx.passes = norm, kind, ranks, passes
        ctx.save_for_backward(x, mean, var, *(batch or (None, None)), count, *params)
        if ranks is not None:
            pooled = list(batch)
        if not pooled:
            return y, None, None, None
        ctx.mark_non_differentiable(*pooled, *(() if count is None else (count,)))
        return y, pooled[0], pooled[1], count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
        x, mean, var, batch_mean, batch_var, count, *params = ctx.saved_tensors
        batch = None if batch_mean is None else Moments(batch_mean, batch_var)
        if torch.is_grad_enabled() or _is_batched(dy):
            return None, None, None, *_differentiable(ctx, dy, x, batch, params)
        passes = ctx.passes
        with without_autocast(x.device.type):
            map_ = dense(x)
            positions = positions_of(map_)
            dy = like(dy, map_)
            sums = passes.sums(dy, map_, mean)
            tables = _in(mean.dtype, params)
            scale, d_var, d_mean, *others = ctx.vjp(mean, var, *(batch or ()), *sums, *tables)
            if batch is not None:
                d_batch, others = Moments(*others[:2]), others[2:]
                # Without a gradient of x nothing asks for it, and the differentiable formulation exchanges nothing.
                if ctx.ranks is not None and ctx.needs_input_grad[3]:
                    sample = Moments(mean, var)
                    through = ctx.ranks.derivative(d_batch, batch, sample, positions, count)
                    d_mean, d_var = d_mean + through[0], d_var + through[1]
            dx = None
            if ctx.needs_input_grad[3]:
                # d var / d x = 2 (x - mean) / S for the population variance
                d_var = d_var.mul_(2 / (positions - ctx.norm.sample_correction))
                dx = passes.gradient(dy, map_, mean, scale, d_var, d_mean.mul_(1 / positions))
        grads = (
            grad.to(param.dtype) if wanted else None
            for grad, param, wanted in zip(others, params, ctx.needs_input_grad[6:], strict=True)
        )
        return None, None, None, dx, None, None, *grads


def _differentiable(
    ctx: Any, dy: Tensor, x: Tensor, batch: Moments | None, params: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients as functions that can be differentiated again."""
    if ctx.ranks is not None:
        raise RuntimeError(
            f"{type(ctx.norm).__name__}: second derivatives through batch moments of several ranks are not supported: "
            "set sync=False"
        )
    # Aliases, since x may itself depend on the parameters: these are derivatives by each alone.
    with torch.enable_grad():
        x, *params = (tensor.view_as(tensor) for tensor in (x, *params))
    wanted = (ctx.needs_input_grad[3], *ctx.needs_input_grad[6:])
    leaves = [t for t, want in zip((x, *params), wanted, strict=True) if want]
    with torch.enable_grad(), without_autocast(x.device.type):
        y = ctx.norm.plain(x, batch if ctx.kind == "given" else None, params)[0]
        again = not _is_batched(dy)
        found = iter(torch.autograd.grad(y, leaves, dy, create_graph=again, allow_unused=True))
    dx, *grads = (next(found) if want else None for want in wanted)
    return dx, None, None, *grads


def _is_batched(dy: Tensor) -> bool:
    """Whether several gradients come at once, as with `torch.autograd.grad(is_grads_batched=True)`."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(dy))


def like(dy: Tensor, x: Tensor) -> Tensor:
    """`dy` in the dtype of `x`, and lying in memory as it does."""
    if dy.dtype == x.dtype and dy.stride() == x.stride() and has_its_values(dy):
        return dy
    return torch.empty_like(x).copy_(dy)


def positions_of(x: Tensor) -> int:
    """S, the values per sample and channel of `x` (N, C, *spatial)."""
    return x.numel() // (x.shape[0] * x.shape[1])


def _in(dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.to(dtype).contiguous() for tensor in tensors]
