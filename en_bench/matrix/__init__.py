"""The matrix: every normaliser on every training set, validated on every validation set. Needs no torch."""
