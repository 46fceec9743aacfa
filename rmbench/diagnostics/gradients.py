"""Exact gradient norms of every pair of a micro-batch, over all trained parameters, from one backward pass.

A layer's gradient for one pair is a sum over the pair's tokens, of both responses together: sum_t g_t a_t^T for a
Linear with inputs a and output gradients g. Hooks see a and g while the backward pass goes by, so the norm needs no
backward pass of its own per pair. Norms of the two responses apart would be 1.6-3.6 times too large, because most of
them cancels; that cancellation is what NormBT is about (arXiv 2512.06343).

    gradients = PairGradients(model)
    with gradients.watch(inputs):                      # both passes in here
        output = run_inputs(model, inputs)
        norms = gradients.collect(output.margin).norms  # ||grad(r_w - r_l)||, (pairs,); p.grad is not touched
        loss_of(output).sum().backward()                # the graph is still there

or, with the step's own backward pass and nothing else:

        measured = gradients.collect(loss, lambda: loss.sum().backward())

For a loss that depends only on the margin, grad(loss_i) = slope_i grad(r_w - r_l), so either follows from the other.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rmbench.diagnostics.norms import GradientNorms
from rmbench.diagnostics.rules import Pieces, Rule, Use, rule_for
from rmbench.diagnostics.sketches import Result, combined, sketched
from rmbench.errors import UserError
from rmbench.foreign.torch import in_backward_pass
from rmbench.modeling.layout import BatchInputs, PairOutput, run_inputs
from rmbench.modeling.model import RewardModel

logger = logging.getLogger(__name__)

VERIFIED_TO = 0.05  # relative, bf16 included; a rule that does not fit its layer is wrong by far more
NEGLIGIBLE = 2e-3  # share of the whole gradient norm below which a layer's is rounding (a key's bias has none)


class Tap(torch.autograd.Function):
    """Hands a tensor on, and shows its gradient, with the input of the layer that made it, on the way back.

    The input is kept by autograd, as the layer itself keeps it, so that recomputed activations are seen, not kept.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, inputs: Tensor, _anchor: Tensor, show: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        """A copy of `output` that may be modified in place, as some models do.

        Args:
            ctx: keeps what `backward` needs.
            output: of the layer.
            inputs: of the layer.
            _anchor: requires a gradient, so that autograd comes here even where no input of the layer does.
            show: called with the inputs and the output's gradient.
        """
        ctx.save_for_backward(inputs)
        ctx.show = show
        return output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient unchanged, after it was shown."""
        ctx.show(*ctx.saved_tensors, gradient)
        return gradient, None, None, None


class PairGradients:
    """Measures gradient norms by pair while a model computes.

    Linear, embedding and norm layers have fast rules; their result is compared once with autograd, on the first two
    pairs that are watched, and layers of other kinds, or used in ways that a rule does not see, take one backward pass
    per pair. Padded and shared rows, gradient checkpointing, autocast, LoRA, tied and frozen weights.

    Args:
        model: its parameters that require gradients are the trained ones.
        sketch: keep at most so many numbers of each pair's gradient of a weight matrix, a random projection, for
            directions; best a prime; 0 keeps none. Smaller matrices, and vectors, are kept whole.
    """

    def __init__(self, model: RewardModel, sketch: int = 0) -> None:
        self.model, self.sketch_size = model, sketch
        self._layers: dict[str, nn.Module] = {}
        self._rules: dict[str, Rule] = {}
        self._slow: set[str] = set()
        for name, module in model.named_modules():
            if any(p.requires_grad for p in module.parameters(recurse=False)):
                self._layers[name] = module
                rule = rule_for(name, module, sketch)
                if rule is None:
                    self._slow.add(name)
                else:
                    self._rules[name] = rule
        owners = Counter(id(p) for module in self._layers.values() for p in module.parameters(recurse=False))
        self._shared = {id_ for id_, count in owners.items() if count > 1}
        self._verified = False
        self._on = False
        self._pieces: Pieces | None = None
        self._calls: Counter[str] = Counter()
        self._uses: dict[str, list[Use]] = {}
        self._results: dict[str, Result] = {}
        self._unsplit: set[str] = set()
        self._anchor = torch.zeros((), requires_grad=True)

    @property
    def slow_layers(self) -> set[str]:
        """Names of the layers that need one backward pass per pair."""
        return set(self._slow)

    @contextmanager
    def watch(self, inputs: BatchInputs) -> Iterator[None]:
        """Around the forward and the backward pass over `inputs`."""
        self._pieces = Pieces(inputs)
        self._calls.clear()
        self._anchor = torch.zeros((), requires_grad=True, device=self.model.head.weight.device)
        hooks: list[Any] = []
        for name, rule in self._rules.items():
            module = self._layers[name]
            if rule.widens:
                hooks.append(module.register_forward_pre_hook(self._widen))
            # first of all hooks: what the layer itself made, not what another hook makes of it
            hooks.append(module.register_forward_hook(self._tap(name), prepend=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._pieces = None
            self._forget()

    def collect(self, values: Tensor, backward: Callable[[], object] | None = None) -> GradientNorms:
        """Norms of the gradients of `values` `(pairs,)`, one value a pair, inside `watch`.

        Raises:
            UserError: a layer has no fast way in this pass, and `backward` leaves no graph for the slow one.

        `backward` runs a backward pass of `values.sum()`, which may be the step's own. Without it the graph is kept and
        no parameter's `.grad` is touched; only what leads to the layers is computed, so it costs about half of that.
        """
        assert self._pieces is not None, "collect belongs inside watch"
        if not self._verified and values.requires_grad:
            self._verify(values)
        # The slow layers first: they need the graph, which the step's own backward pass frees.
        slow = self._slow | self._tied_and_used()
        results = self._one_by_one(values, slow)
        results |= {name: result for name, result in self._fast(values, backward).items() if name not in slow}
        unseen = self._unsplit - slow
        if unseen and backward is not None:  # the graph is gone
            raise UserError(
                f"The gradients of {', '.join(sorted(unseen))} cannot be separated by pair in a training step."
                "\ndiagnostics.gradient=head does not need them; `rmbench diagnose` measures them pair by pair."
            )
        results |= self._one_by_one(values, unseen)
        ordered = [results[name] for name in self._layers if name in results]
        squares = {name: results[name].square for name in self._layers if name in results}
        sketches = [result.sketch for result in ordered if result.sketch is not None]
        sketch = torch.cat(sketches, dim=1) if sketches else None
        return GradientNorms(squares or {"none": torch.zeros_like(values.detach())}, sketch)

    def of_margins(self, inputs: BatchInputs) -> tuple[PairOutput, GradientNorms]:
        """A forward pass over `inputs` and the norms of grad(r_w - r_l); `p.grad` is not touched."""
        with self.watch(inputs):
            output = run_inputs(self.model, inputs)
            return output, self.collect(output.margin)

    def inner_products(self, inputs: BatchInputs) -> tuple[Tensor, Tensor, Tensor]:
        """G_ww, G_ll, G_wl, each `(pairs,)`: products of grad r_w and grad r_l of each pair.

        ||a grad r_w + b grad r_l||^2 = a^2 G_ww + b^2 G_ll + 2 a b G_wl for every loss, whatever its slopes a and b.
        """
        with self.watch(inputs):
            output = run_inputs(self.model, inputs)
            each = (output.rewards_chosen, output.rewards_rejected, output.margin)
            chosen, rejected, difference = (self.collect(values).norms.square() for values in each)
        return chosen, rejected, (chosen + rejected - difference) / 2

    def _tap(self, name: str) -> Callable[..., Tensor | None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
            """Puts a tap behind the layer."""
            if not torch.is_grad_enabled():
                return None
            if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
                self._slow.add(name)  # keyword inputs, tuples: no rule knows what went in
                return None
            if not in_backward_pass():  # where it would be a recomputation
                self._calls[name] += 1
            tapped: Tensor = Tap.apply(output, inputs[0], self._anchor, lambda a, g: self._seen(name, a, g))
            return tapped

        return hook

    def _seen(self, name: str, inputs: Tensor, gradient: Tensor) -> None:
        """One use of a layer goes by in the backward pass."""
        if not self._on or self._pieces is None or name in self._slow:
            return
        if not self._pieces.fits(gradient) or not self._rules[name].fits(inputs, gradient):
            self._unsplit.add(name)
        elif self._calls[name] > 1:  # the pair's gradient is one sum over all uses: kept until the last is there
            self._uses.setdefault(name, []).append((inputs, gradient))
        else:
            self._results[name] = self._rules[name].apply([(inputs, gradient)], self._pieces)

    def _widen(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Positions that a model looks up once for all rows are looked up for each, with its own gradient."""
        assert self._pieces is not None
        ids = inputs[0]
        if self._pieces.packed or ids.dim() != 2 or ids.shape[0] != 1:
            return None
        return (ids.expand(2 * self._pieces.pairs, -1), *inputs[1:])

    def _fast(self, values: Tensor, backward: Callable[[], object] | None) -> dict[str, Result]:
        """One backward pass with the taps open; what the rules make of it, by layer."""
        assert self._pieces is not None
        self._forget()
        self._on = True
        try:
            if backward is not None:
                backward()
            elif values.requires_grad:
                torch.autograd.grad(values.sum(), [self._anchor], retain_graph=True, allow_unused=True)
        finally:
            self._on = False
        for name, uses in self._uses.items():
            self._results[name] = self._rules[name].apply(uses, self._pieces)
        return self._results

    def _tied_and_used(self) -> set[str]:
        """Layers that share a weight with another layer which took part as well."""
        used: dict[int, list[str]] = {}
        for name in self._calls:
            for p in self._layers[name].parameters(recurse=False):
                if id(p) in self._shared:
                    used.setdefault(id(p), []).append(name)
        return {name for names in used.values() if len(names) > 1 for name in names}

    def _one_by_one(self, values: Tensor, names: set[str]) -> dict[str, Result]:
        """The slow way: one backward pass per pair, only for the parameters of these layers; a tied one once."""
        parameters: dict[str, list[nn.Parameter]] = {}
        seen: set[int] = set()
        for name in (name for name in self._layers if name in names):
            own = [p for p in self._layers[name].parameters(recurse=False) if p.requires_grad and id(p) not in seen]
            seen |= {id(p) for p in own}
            if own:
                parameters[name] = own
        flat = [p for own in parameters.values() for p in own]
        if not flat or not values.requires_grad:
            return {}
        found: dict[str, list[Result]] = {name: [] for name in parameters}
        for value in values:
            gradients = iter(torch.autograd.grad(value, flat, retain_graph=True, allow_unused=True))
            for name, own in parameters.items():
                each = [g if (g := next(gradients)) is not None else torch.zeros_like(p) for p in own]
                found[name].append(sketched(name, each, self.sketch_size))
        return {name: combined(results) for name, results in found.items()}

    def _verify(self, values: Tensor) -> None:
        """Compare every rule with autograd on two pairs that have a gradient; layers it does not fit go slowly."""
        measured = self._fast(values, None)
        self._slow |= self._unsplit
        whole = torch.stack([r.square for r in measured.values()]).sum(0) if measured else values.detach()
        two = whole.topk(min(2, len(whole))).indices
        loop = self._one_by_one(values[two], set(self._layers))
        total = torch.stack([r.square for r in loop.values()]).sum(0).sqrt() if loop else whole[two]
        if not (total > 0).all():
            return  # nothing to compare yet
        self._verified = True
        for name, result in loop.items():
            expected = result.square.sqrt()
            found = measured[name].square[two].sqrt() if name in measured else torch.zeros_like(expected)
            missed = name not in measured and bool(expected.any())
            if missed or ((found - expected).abs() > VERIFIED_TO * expected + NEGLIGIBLE * total).any():
                self._slow.add(name)
        if self._slow:
            logger.info("gradient norms are computed pair by pair (slow) for %s", ", ".join(sorted(self._slow)))

    def _forget(self) -> None:
        self._uses, self._results, self._unsplit = {}, {}, set()
