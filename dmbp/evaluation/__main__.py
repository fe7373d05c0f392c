"""`python -m dmbp.evaluation`: the page of methods, metrics and their options, in Markdown."""

from dmbp.evaluation.option_table import page

print(page(), end="")
