"""Parts of `experiments.digits`: the classifiers, and the decision tree in their attention."""
