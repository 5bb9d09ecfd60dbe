"""Parts of `experiments.polynomials`: sequences in chunks, and what predicts and judges them."""
