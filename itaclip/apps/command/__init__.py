"""The command line.

Modules load PyTorch only inside `main`: `parser` is all that help and shell completion need.
"""
