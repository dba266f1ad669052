"""Pure functions of tensors: no models, files, devices, randomness or printing.

Weights are ``[out_features, in_features]``. Masks are True where a weight is kept. No kernel
changes its arguments.
"""
