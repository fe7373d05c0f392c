"""dmbp: Disentangled Masked Backpropagation (Ruiz, Agudo, Moreno-Noguer, ICCV 2021) on linreg's operator graphs."""

from dmbp.comparison import Comparison, compare
from dmbp.errors import DmbpError
from dmbp.explanation import explain
from dmbp.masks import find_sites, initial_logits, masked
from dmbp.optimize import Learned, MaskedScores, Options, learn_masks, masked_scores
from dmbp.result import Result
from dmbp.runs.batches import Explained, explain_all
from dmbp.saved import load
from dmbp.split import Split, decompose, recurrence
from dmbp.verdict import Verdict
from linreg import __version__ as __version__

__all__ = [
    "Comparison",
    "DmbpError",
    "Explained",
    "Learned",
    "MaskedScores",
    "Options",
    "Result",
    "Split",
    "Verdict",
    "compare",
    "decompose",
    "explain",
    "explain_all",
    "find_sites",
    "initial_logits",
    "learn_masks",
    "load",
    "masked",
    "masked_scores",
    "recurrence",
]
