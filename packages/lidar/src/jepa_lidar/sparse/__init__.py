"""Sparse convolution on voxels: own PyTorch code (the reference, the default) or the optional package spconv."""

from jepa_lidar.sparse.backend import choose_backend
from jepa_lidar.sparse.layers import SparseConv3d, SubmanifoldConv3d
from jepa_lidar.sparse.tensor import SparseTensor, linear_keys

__all__ = ["SparseConv3d", "SparseTensor", "SubmanifoldConv3d", "choose_backend", "linear_keys"]
