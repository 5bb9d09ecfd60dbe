"""Atari games for training and for evaluation, under one protocol.

`AtariTrainingEnv` is a Gymnasium vector environment that steps many copies of a game in C++;
`make_evaluation_env` makes a single Gymnasium environment that can also be rendered. Both are made
from an `AtariConfig`, give the same observations and the same raw rewards
(`tests/envs/test_paths_agree.py` compares them pixel by pixel). Nothing here depends on agents or
networks.
"""

from envs.config import AtariConfig as AtariConfig
from envs.config import action_names as action_names
from envs.config import num_actions as num_actions
from envs.evaluation import make_evaluation_env as make_evaluation_env
from envs.games import Game as Game
from envs.games import UnknownGameError as UnknownGameError
from envs.games import UnplayableGameError as UnplayableGameError
from envs.games import list_games as list_games
from envs.games import resolve_game as resolve_game
from envs.scores import PUBLISHED_SCORES as PUBLISHED_SCORES
from envs.scores import PublishedScores as PublishedScores
from envs.scores import human_normalised as human_normalised
from envs.training import AtariTrainingEnv as AtariTrainingEnv
from envs.training import Episode as Episode
