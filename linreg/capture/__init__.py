"""From an unmodified model to its operator graph: export, translate, fuse, and compare with the model."""
