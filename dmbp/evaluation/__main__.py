"""`python -m dmbp.evaluation`: the page of methods and their options, in Markdown."""

from dmbp.evaluation.methods.option_table import page

print(page(), end="")
