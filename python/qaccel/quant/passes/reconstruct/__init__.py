"""Block reconstruction: a block of layers at a time, weights, biases and steps are learned for the block's output. Needs torch."""
