"""What normalisers cost: layers, training steps, memory, first use. Measured wherever it is started."""
