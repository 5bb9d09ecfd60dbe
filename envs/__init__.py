"""Atari games for training and for evaluation, under one protocol.

`TrainingEnv` steps many games at once in C++; `make_evaluation_env` makes one ordinary Gymnasium
environment with a screen to look at. Both show the same pixels and pay the same raw rewards, which
`tests/envs/test_paths_agree.py` holds. Nothing in here knows of agents or networks.
"""

from envs.evaluation import make_evaluation_env as make_evaluation_env
from envs.games import Game as Game
from envs.games import UnknownGameError as UnknownGameError
from envs.games import UnplayableGameError as UnplayableGameError
from envs.games import list_games as list_games
from envs.games import resolve_game as resolve_game
from envs.scores import PUBLISHED_SCORES as PUBLISHED_SCORES
from envs.scores import PublishedScores as PublishedScores
from envs.scores import human_normalised as human_normalised
from envs.training import Episode as Episode
from envs.training import TrainingEnv as TrainingEnv
from envs.training import TrainingStep as TrainingStep
