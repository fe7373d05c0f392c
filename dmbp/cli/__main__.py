"""`python -m dmbp.cli`, where the command `dmbp` is not on the path."""

from dmbp.cli import main

main()
