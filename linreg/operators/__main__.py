"""`python -m linreg.operators`: the table of operators, in Markdown."""

from linreg.operators.catalogue import catalogue

print(catalogue(), end="")
