"""Environments for training and for evaluation, under one protocol: Atari games and Gymnasium's.

`make_training_env` makes a Gymnasium vector environment of many copies; `make_evaluation_env` makes
a single Gymnasium environment that can also be rendered. Both are made from an `AtariConfig` or a
`GymnasiumConfig`, and give the same observations and the same raw rewards (for Atari games
`tests/envs/test_paths_agree.py` compares them pixel by pixel). Nothing here depends on agents or
networks.
"""

from envs.config import AtariConfig as AtariConfig
from envs.games import Game as Game
from envs.games import UnknownGameError as UnknownGameError
from envs.games import UnplayableGameError as UnplayableGameError
from envs.games import list_games as list_games
from envs.games import resolve_game as resolve_game
from envs.gymnasium_config import GymnasiumConfig as GymnasiumConfig
from envs.gymnasium_config import UnusableEnvironmentError as UnusableEnvironmentError
from envs.interface import EnvConfig as EnvConfig
from envs.interface import Spaces as Spaces
from envs.interface import action_names as action_names
from envs.interface import make_evaluation_env as make_evaluation_env
from envs.interface import make_training_env as make_training_env
from envs.interface import num_actions as num_actions
from envs.interface import rendering_problem as rendering_problem
from envs.interface import resolve_environment as resolve_environment
from envs.interface import spaces as spaces
from envs.milestones import MILESTONES as MILESTONES
from envs.milestones import Milestone as Milestone
from envs.milestones import milestones_reached as milestones_reached
from envs.scores import PLATEAUS as PLATEAUS
from envs.scores import PUBLISHED_SCORES as PUBLISHED_SCORES
from envs.scores import PublishedScores as PublishedScores
from envs.scores import human_normalised as human_normalised
from envs.training import AtariTrainingEnv as AtariTrainingEnv
from envs.training import Episode as Episode
