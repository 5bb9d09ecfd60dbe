"""The settings of the continual learning experiment, as `experiments.continual_choice` found them.

Learning rate of Adam (of Adagrad, where that is the method), and the regularizer's strength.
"""

from collections.abc import Mapping

from experiments.continual_run import Choice

CHOICES: Mapping[str, Choice] = {}
