"""The settings of the continual learning experiment, as `experiments.continual_choice` found them.

Learning rate of Adam (of Adagrad, where that is the method), and the regularizer's strength.
"""

from collections.abc import Mapping

from experiments.continual_run import LAYERS, METHODS, SCENARIOS, Choice, Contestant

CHOICES: Mapping[str, Choice] = {
    str(Contestant(s, m, layer)): Choice(1e-3, 1.0)
    for s in SCENARIOS
    for m in METHODS
    for layer in LAYERS
}
