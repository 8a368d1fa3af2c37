"""LiDAR for jepakit: voxels, sparse encoder, bird's-eye-view masks, simulated and recorded scans."""

__version__ = "0.1.0"
