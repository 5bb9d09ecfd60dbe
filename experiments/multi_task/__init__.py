"""Parts of `experiments.algorithms`: the tasks, and the machine that learns them."""
