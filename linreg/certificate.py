"""The certificate: how well y = c·x + Σ ledger holds in the arithmetic at hand, and how well it must.

With hats for what was computed, let ẑ_v = A_v ẑ + β_v + δ_v at each node v on the way forward, and on the way back
ĝ_u = Σ A_vᵀ ĝ_v + η_u over the readers v of each value u. Multiplying the first by ĝ_v, summing, and using the second,

    w·ẑ_out − (ĝ_in·x + Σ ĝ_v·β_v) = Σ_v ĝ_v·δ_v − Σ_u η_u·ẑ_u,

exactly and for the computed numbers themselves: no |W| is ever multiplied by another, and no second-order term is
dropped. `Affine.rounding` bounds |δ_v| ≤ γ (|A_v| |ẑ| + |β_v|) and |η_u| ≤ γ Σ |A_v|ᵀ |ĝ_v|, so that all there is to
compute is what flows through each node in absolute terms, |ĝ_v|·|A_v| |ẑ| and |ĝ_v|·|β_v|. The rest is the rounding of
the final sums. Where products underflow, each rounding may lose the same small number more: |δ_v| by n_v λ, |η_u| by
n'_v λ, which makes λ (n_v Σ|ĝ_v| + n'_v Σ|ẑ_u|), and λ for each product of a term.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from linreg.graph import Node
from linreg.ledger import Ledger
from linreg.linearization import Linearization
from linreg.margins import Margin, closeness, margins
from linreg.operators.rounding import gamma, underflow, widening
from linreg.target import Target, check_image, cotangent
from linreg.text import html_table, numbers


@dataclass(frozen=True, eq=False)
class Certificate:
    """Completeness (Eq. 14) of each image and its proved width; each part is computed when it is asked for.

    >>> import torch, linreg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> lin = linreg.trace(model, torch.ones(1, 2)).linearize(torch.ones(1, 2))
    >>> lin.certificate()
    Certificate(y = 13.50; |y − c·x − Σ ledger| = 0;
                summary() tells bound and gates)
    >>> lin.certificate().doubtful  # none of the two gates may have been turned by rounding
    tensor([0])
    """

    lin: Linearization
    target: Target

    def __repr__(self) -> str:
        """The score and the error, which cost a sweep back; bound and gates, which cost more, are left to `summary`."""
        error = numbers(self.completeness_error.tolist())
        score = numbers(self.score.tolist())
        return f"Certificate(y = {score}; |y − c·x − Σ ledger| = {error};\n            summary() tells bound and gates)"

    def _repr_html_(self) -> str:
        """What `summary` says of the first image."""
        values = {
            "y": f"{self.score[0]:.6g}",
            "c·x + Σ ledger": f"{self.total[0]:.6g}",
            "they differ by": f"{self.completeness_error[0]:.2e}",
            "Σ|terms|": f"{self.magnitude[0]:.4g}",
            "judged": self._judged(0),
        }
        more = f"\nThis is image 0 of {len(self.score)}: summary(image) tells of the others." * (len(self.score) > 1)
        below = closeness(self.lin.graph, self.margins, 0) + more
        return html_table(values.items(), ("certificate", ""), right=(1,), below=below)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger whose total is judged."""
        return self.lin.ledger(self.target)

    @cached_property
    def score(self) -> Tensor:
        """y, from the sweep forward, (N,)."""
        return self.lin.score(self.target)

    @cached_property
    def total(self) -> Tensor:
        """c·x + Σ ledger, from the sweep back, (N,)."""
        return self.ledger.total

    @property
    def magnitude(self) -> Tensor:
        """Σ|terms|, (N,): the unit in which rounding is to be judged."""
        return self.ledger.magnitude

    @property
    def completeness_error(self) -> Tensor:
        """|y − c·x − Σ ledger|, (N,)."""
        return (self.score - self.total).abs()

    @property
    def relative_error(self) -> Tensor:
        """The same in units of Σ|terms|, (N,)."""
        return self.completeness_error / self.magnitude.clamp_min(1e-300 if self.score.element_size() == 8 else 1e-30)

    @cached_property
    def bound(self) -> Tensor:
        """What `completeness_error` cannot exceed by rounding alone, (N,), in float64; for any order of summation.

        It is about the graph as it stands: what rounding did to its parameters when it was made is not in it.
        """
        return completeness_bound(self.lin, self.target, self.ledger)

    @cached_property
    def margins(self) -> tuple[Margin, ...]:
        """For each gate site, how far its units are from their kinks, and how many rounding may have turned."""
        return margins(self.lin.graph, self.lin.input)

    @property
    def doubtful(self) -> Tensor:
        """Over all sites, units whose gate the roundings since the gates before them could turn, (N,)."""
        return sum((margin.doubtful for margin in self.margins), torch.zeros_like(self.score, dtype=torch.long))

    def summary(self, image: int = 0) -> str:
        """Two lines on one image: completeness, and the gates. Raises LinregError where there is no such image.

        `bound`, which many roundings all of one sign would take to reach, is named only where the error exceeds it.
        """
        check_image(image, len(self.score))
        return (
            f"y = {self.score[image]:.6g}, c·x + Σ ledger = {self.total[image]:.6g}: they differ by "
            f"{self.completeness_error[image]:.2e}, {self.relative_error[image]:.1e} of "
            f"Σ|terms| = {self.magnitude[image]:.4g}; {self._judged(image)}\n"
            f"{closeness(self.lin.graph, self.margins, image)}"
        )

    def _judged(self, image: int) -> str:
        if self.bound[image].isinf():
            return "how much rounding explains is not known"
        if self.completeness_error[image].double() <= self.bound[image]:
            return "rounding explains that"
        return f"rounding alone cannot make it more than {self.bound[image]:.1e}, so a term is missing or wrong"


@torch.no_grad()
def completeness_bound(lin: Linearization, target: Target, ledger: Ledger) -> Tensor:
    """Σ_v (γ_v + γ'_v) |ĝ_v|·|A_v||ẑ| + Σ_k (γ_v + γ_k) |ĝ_v|·|β_k| + γ |c|·|x| + γ |w|·|y|, (N,) in float64.

    γ_v counts the roundings of a node forward, γ'_v those of its adjoint and of adding up a value's readers, γ_k those
    of a term's own sum and of the ledger's. To these comes what underflow can take from each of them.
    """
    lost = underflow(lin.input)
    readers = Counter(name for node in lin.graph.nodes for name in node.inputs)
    seed, terms = cotangent(target, lin.output), len(ledger.terms) + 1
    inputs, flows = _values(lin), list[Tensor]()

    def step(node: Node, grad: Tensor) -> tuple[Tensor, ...]:
        affine, values = lin.frozen[node.name], inputs.pop(node.name)
        rule = affine.rounding(*values)
        shares = affine.shares(grad)
        forward = gamma(rule.forward + len(shares), grad)
        backward = gamma(rule.backward + max(readers[name] for name in node.inputs) - 1, grad)
        through = _flow(grad, rule.absolute(*(value.abs() for value in values)))
        flows.append(_times(forward + backward, through * widening(rule.forward, grad)))
        counts = rule.forward + len(shares), rule.backward + max(readers[name] for name in node.inputs) - 1
        if sum(counts):
            flows.append(lost * (1 + len(shares)) * grad[0].numel() + torch.zeros_like(through))
            flows.append(_times(lost * counts[0], _flow(grad)))
            flows.extend(_times(lost * counts[1], _flow(_finite(value))) for value in values)
        for place, (_, share) in enumerate(shares):
            own = grad.numel() // share.numel() + share[0].numel() + terms
            flows.append((forward + gamma(own, grad)) * _flow(affine.elements(place, grad)))
        return affine.adjoint(grad)

    lin.graph.pull({lin.graph.output: seed}, step)
    flows.append(gamma(lin.input[0].numel() + terms, lin.input) * _flow(ledger.input))
    flows.append(gamma(int(seed.ne(0).reshape(len(seed), -1).sum(1).max()), seed) * _flow(seed, lin.output))
    flows.append(lost * (lin.input[0].numel() + seed[0].numel()) + torch.zeros_like(flows[-1]))
    # The flows themselves were rounded too, by a few γ of their own.
    return torch.stack(flows).sum(0) * widening(terms + 10, lin.input)


def _values(lin: Linearization) -> dict[str, tuple[Tensor, ...]]:
    """The values that each node reads, computed as `lin.output` was."""
    inputs: dict[str, tuple[Tensor, ...]] = {}

    def step(node: Node, values: tuple[Tensor, ...]) -> Tensor:
        inputs[node.name] = values
        return lin.frozen[node.name](*values)

    lin.graph.evaluate({"input": lin.input}, step)
    return inputs


def _flow(*factors: Tensor) -> Tensor:
    """Σ |a ⊙ b| of each image, added up in float64, (N,)."""
    product = factors[0] if len(factors) == 1 else torch.where(factors[0] == 0, 0, factors[0] * factors[1])
    return product.abs().reshape(len(product), -1).sum(1, dtype=torch.float64)


def _finite(value: Tensor) -> Tensor:
    """A value of −∞, padding that no maximum chose, meets a gradient that is 0 to the bit."""
    return value.where(value.isfinite(), 0)


def _times(factor: float, flow: Tensor) -> Tensor:
    """A bound that is infinite stays so where nothing flows."""
    return (factor * flow).nan_to_num(nan=torch.inf, posinf=torch.inf)
