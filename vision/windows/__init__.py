"""Sums over all pairs of near pixels (kernels, coherence and Potts energies) without unfolding: half of the window,
slices inside the image, and gradients by hand.
"""

from maskmill.vision.windows.energies import l1_energy, potts_energy
from maskmill.vision.windows.kernels import colour_kernel, feature_distances, gate_pairs, spatial_kernel
from maskmill.vision.windows.pairs import Window, half_offsets, narrowed, pair_slices, partner_values

__all__ = [
    "Window",
    "colour_kernel",
    "feature_distances",
    "gate_pairs",
    "half_offsets",
    "l1_energy",
    "narrowed",
    "pair_slices",
    "partner_values",
    "potts_energy",
    "spatial_kernel",
]
