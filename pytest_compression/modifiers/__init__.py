"""Kernels put to work on the layers of a model: the steps that recipes are made of."""
