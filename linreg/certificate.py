"""The certificate: how well y = c·x + Σ ledger holds in the arithmetic at hand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from linreg.ledger import Ledger


@dataclass(frozen=True, eq=False)
class Certificate:
    """Completeness (Eq. 14) of each image: `score` y, `total` c·x + Σ ledger, `magnitude` Σ|terms|; all (N,)."""

    score: Tensor
    total: Tensor
    magnitude: Tensor

    @classmethod
    def of(cls, score: Tensor, ledger: Ledger) -> Certificate:
        return cls(score, ledger.total, ledger.magnitude)

    @property
    def completeness_error(self) -> Tensor:
        """|y − c·x − Σ ledger|, (N,)."""
        return (self.score - self.total).abs()

    @property
    def relative_error(self) -> Tensor:
        """The same in units of Σ|terms|: the unit in which rounding is to be judged."""
        return self.completeness_error / self.magnitude.clamp_min(1e-300 if self.score.element_size() == 8 else 1e-30)

    def summary(self, image: int = 0) -> str:
        """One line on one image."""
        return (
            f"y = {self.score[image]:.6g}, c·x + Σ ledger = {self.total[image]:.6g}: they differ by "
            f"{self.completeness_error[image]:.2e}, {self.relative_error[image]:.1e} of "
            f"Σ|terms| = {self.magnitude[image]:.4g}"
        )
