"""From an unmodified model to its operator graph: export, translate, fuse, and compare with the model.

`trace` asks for a model that it has to itself (`private`), and takes these steps in each of its `attempts`: `export`
captures the model as a program, `translate` makes of its calls the nodes of a graph, `fuse` makes one node of several,
`agreement` compares the graph with the model, beside a `reference`. `outputs` finds the output that is explained,
`example` says what the model is called with, `held` collects what its fixed inputs decide, `fixed_values` what a
forward reads of its own tensors, and `one_image` translates a program of one image for any number.

What `translate` needs to know of a program is in `program`, `place`, `names`, `sizes` and `constants`; `refuse` words
the error where a call cannot be taken. Whether it can is for `linreg.operators` to say, rule by rule.
"""
