"""Triton kernels of routing and of grouped experts.

Modules import only triton and each other, relatively: the folder is loaded as a package of any name
(specialisations.py says how)."""
