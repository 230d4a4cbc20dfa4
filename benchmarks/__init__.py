"""Figures on real data, one program a claim; all accept the same flags."""
