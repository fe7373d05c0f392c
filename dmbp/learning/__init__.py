"""Learning the masks: the objective, both masked passes and their gradient, and descent on the logits (Algorithm 1)."""
