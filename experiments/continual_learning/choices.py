"""The settings of the continual learning experiment, as `experiments.continual_choice` found them.

Learning rate of Adam (of Adagrad, where that is the method), and the regularizer's strength.
"""

from collections.abc import Mapping

from experiments.continual_learning.run import Choice

CHOICES: Mapping[str, Choice] = {
    "adam/linear": Choice(0.0003, 0),
    "adagrad/linear": Choice(0.003, 0),
    "l2/linear": Choice(0.0003, 1),
    "si/linear": Choice(0.0003, 1000),
    "ewc/linear": Choice(0.0003, 10000),
    "online-ewc/linear": Choice(0.0003, 1),
    "adam/nsm": Choice(0.0003, 0),
    "adagrad/nsm": Choice(0.003, 0),
    "l2/nsm": Choice(0.0003, 0.001),
    "si/nsm": Choice(0.0003, 10000),
    "ewc/nsm": Choice(0.0003, 100000),
    "online-ewc/nsm": Choice(0.0003, 10),
    "adam/neurocoder": Choice(0.003, 0),
    "adagrad/neurocoder": Choice(0.03, 0),
    "l2/neurocoder": Choice(0.003, 0.1),
    "si/neurocoder": Choice(0.003, 10),
    "ewc/neurocoder": Choice(0.003, 10),
    "online-ewc/neurocoder": Choice(0.003, 0.1),
}
