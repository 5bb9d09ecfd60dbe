"""Parts of `experiments.polynomials`: chunked sequences, their predictors and their scores."""
