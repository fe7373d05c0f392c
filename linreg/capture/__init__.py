"""From an unmodified model to its operator graph: export, translate, fuse, and compare with the model.

`trace` takes these steps, each in a file of its own: `export` captures the model as a program, `translate` makes of its
calls the nodes of a graph, `fuse` makes one node of several, `agreement` compares the graph with the model, beside a
`reference`. `outputs` finds the output that is explained, `example` says what the model is called with, and `held`
collects what its fixed inputs decide.

What `translate` needs to know of a program is in `program`, `place`, `names`, `sizes` and `constants`; `refuse` words
the error where a call cannot be taken. Whether it can is for `linreg.operators` to say, rule by rule.
"""
