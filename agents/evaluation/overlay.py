"""Video frames with an overlay: the game, and what the network computed when it played.

The game fills the upper left, 640 x 480; beside it are the policy, the score and the value. Below
are the programs of actor and critic, where the heads compose any:

    +---------------+--------+---------+
    |     game      | policy |  score, |
    |               |        |  value  |
    +---------------+--------+---------+
    |  actor's program  |   critic's   |
    +----------------------------------+
"""

from collections.abc import Callable, Sequence

from agents.config import TrainConfig
from agents.evaluation.drawing import (
    ACCENT,
    BAR,
    LOSS,
    MUTED,
    RULE,
    TEXT,
    Box,
    Picture,
    attention_legend,
    bar,
    blank,
    curve,
    fill,
    rows_of,
    text_width,
    write,
)
from agents.evaluation.episode import StepResult
from agents.evaluation.program_plots import Scale, draw_program
from agents.evaluation.video import HEIGHT as GAME_HEIGHT
from agents.evaluation.video import WIDTH as GAME_WIDTH
from agents.networks.inspection import NeurocoderProgram, PolicyOutput
from envs import action_names
from envs.config import FRAMES_PER_SECOND

WIDTH, HEIGHT, PROGRAMS_HEIGHT = 1280, GAME_HEIGHT, 240
CURVE_SECONDS = 20
REWARD_SECONDS = 2 / 3  # a reward is one step's; shown for as long, it can be read

_MARGIN = 24
_POLICY_X = GAME_WIDTH + _MARGIN
_VALUE_X = 984
_RIGHT = WIDTH - _MARGIN
_CURVE: Box = (_VALUE_X + 30, 236, _RIGHT - _VALUE_X - 30, 110)


class Overlay:
    """Draws one episode's frames together with what the network computed.

    Args:
        title: The game.
        subtitle: Who plays.
        action_names: The names of the A actions.
        frame_skip: Console frames of an agent step.
    """

    def __init__(
        self, title: str, subtitle: str, action_names: Sequence[str], frame_skip: int
    ) -> None:
        self.title, self.subtitle, self.action_names = title, subtitle, tuple(action_names)
        self._steps_per_second = FRAMES_PER_SECOND / frame_skip
        self._canvas: Picture | None = None
        self._background: Picture | None = None
        self._drawn_step = 0
        self._values: list[float] = []
        self._rewards: list[float] = []
        self._highest, self._lowest = Scale(), Scale()
        self._actor, self._critic = Scale(), Scale()

    def render(self, frame: Picture, output: PolicyOutput | None, step: StepResult) -> Picture:
        """Put a frame of the game beside the panels of an agent step.

        The curves are histories: they take in each agent step once, when its first frame is
        rendered. Steps must come in order.

        Args:
            frame: Shape (480, 640, 3), uint8 RGB.
            output: What the network computed before the step, without leading dimensions; None for
                random play.
            step: What the agent did, and what came of it.

        Returns:
            A new image: (720, 1280, 3) where heads compose programs, otherwise (480, 1280, 3).
        """
        if self._canvas is None or step.length != self._drawn_step:
            self._canvas = self._draw(output, step)
            self._drawn_step = step.length
        image = self._canvas.copy()
        image[:GAME_HEIGHT, :GAME_WIDTH] = frame
        return image

    def _draw(self, output: PolicyOutput | None, step: StepResult) -> Picture:
        if self._background is None:
            self._background = self._draw_background(output)
        canvas = self._background.copy()
        self._rewards.append(step.reward)
        self._draw_policy(canvas, output, step.action)
        self._draw_score(canvas, step)
        if output is not None:
            self._draw_value(canvas, float(output.value))
            y = GAME_HEIGHT + 2  # puts the maps on whole blocks of 8 x 8 pixels
            if output.actor is not None:
                draw_program(canvas, 16, y, "Actor", output.actor, self._actor)
            if output.critic is not None:
                x = WIDTH // 2 + 16
                draw_program(canvas, x, y, "Critic", output.critic, self._critic)
        return canvas

    def _draw_background(self, output: PolicyOutput | None) -> Picture:
        """What stays the same for the whole game."""
        composes = output is not None and (output.actor or output.critic) is not None
        ground = blank(WIDTH, HEIGHT + (PROGRAMS_HEIGHT if composes else 0))
        write(ground, self.title, _POLICY_X, 40, 24)
        write(ground, self.subtitle, _POLICY_X, 62, 13, MUTED)
        write(ground, "Policy", _POLICY_X, 100, 16)
        write(ground, "Score", _VALUE_X, 100, 16)
        if output is None:
            write(ground, "random: there is no network", _POLICY_X + 60, 100, 12, MUTED)
            return ground
        write(ground, "probability, % (line: all equal)", _POLICY_X + 290, 100, 12, MUTED, "r")
        write(ground, "Value estimate", _VALUE_X, 180, 16)
        write(ground, "clipped rewards to come", _RIGHT, 180, 12, MUTED, "r")
        below = _CURVE[1] + _CURVE[3] + 16
        write(ground, f"{CURVE_SECONDS} s ago", _CURVE[0], below, 11, MUTED)
        write(ground, "now", _RIGHT, below, 11, MUTED, "r")
        middle = _CURVE[0] + _CURVE[2] // 2
        fill(ground, (middle - 34, below - 8, 2, 8), ACCENT)
        write(ground, "reward", middle - 28, below, 11, MUTED)
        if composes:
            fill(ground, (WIDTH // 2, GAME_HEIGHT + 14, 1, PROGRAMS_HEIGHT - 28), RULE)
        if output is not None and isinstance(output.actor, NeurocoderProgram):
            write(ground, "Attention", _VALUE_X, 418, 16)
            write(ground, "w, of each component to each slot", _RIGHT, 418, 12, MUTED, "r")
            attention_legend(ground, (_VALUE_X, 430, _RIGHT - _VALUE_X, 10))
        return ground

    def _draw_policy(self, board: Picture, output: PolicyOutput | None, action: int) -> None:
        count = len(self.action_names)
        name_width = max(text_width(name, 12) for name in self.action_names)
        x = _POLICY_X + name_width + 10
        area = (x, 114, _POLICY_X + 290 - 38 - x, min(350, 30 * count))
        for i, row in enumerate(rows_of(area, count, gap=5)):
            colour = ACCENT if i == action else MUTED
            line = row[1] + row[3] // 2 + 5
            write(board, self.action_names[i], x - 10, line, 12, colour, "r")
            if output is not None:
                share = float(output.probabilities[i])
                bar(board, row, share, ACCENT if i == action else BAR)
                fill(board, (row[0] + round(row[2] / count), row[1], 1, row[3]), MUTED)
                colour = ACCENT if i == action else TEXT
                write(board, f"{100 * share:.1f}", _POLICY_X + 290, line, 12, colour, "r")

    def _draw_score(self, board: Picture, step: StepResult) -> None:
        text = f"{step.score:,.0f}"
        write(board, text, _VALUE_X, 140, 34)
        recent = [r for r in self._rewards[-self._steps_in(REWARD_SECONDS) :] if r]
        if recent:
            x = _VALUE_X + text_width(text, 34) + 12
            write(board, f"{sum(recent):+,.0f}", x, 140, 20, ACCENT if sum(recent) >= 0 else LOSS)
        seconds = step.length / self._steps_per_second
        clock = f"{int(seconds // 60)}:{seconds % 60:04.1f}"
        write(board, clock, _RIGHT, 140, 16, MUTED, "r")

    def _draw_value(self, board: Picture, value: float) -> None:
        self._values.append(value)
        self._highest.reach(value if value > 0 else 0.0)
        self._lowest.reach(-value if value < 0 else 0.0)
        # Noise on the other side of zero is no reason for another half of an axis.
        high, low = self._highest.end, -self._lowest.end
        high = high if high > -low / 20 else 0.0
        low = low if -low > high / 20 else 0.0
        if low == high:
            high = 1.0
        write(board, f"{round(value, 2) + 0.0:.2f}", _VALUE_X, 220, 34)
        length = self._steps_in(CURVE_SECONDS)
        curve(board, _CURVE, self._values, length, low, high)
        x, y, width, height = _CURVE
        for age, reward in enumerate(reversed(self._rewards[-length:])):
            if reward:
                at = x + width - 1 - round((width - 1) * age / (length - 1))
                fill(board, (at - 1, y + height - 12, 2, 12), ACCENT if reward > 0 else LOSS)
        write(board, f"{high:g}", x - 6, y + 10, 11, MUTED, "r")
        write(board, f"{low:g}", x - 6, y + height, 11, MUTED, "r")

    def _steps_in(self, seconds: float) -> int:
        return max(2, round(seconds * self._steps_per_second))


OverlayFactory = Callable[[str, int], Overlay]


def overlay_factory(config: TrainConfig, global_step: int | None) -> OverlayFactory:
    """Make the overlays of a run's episodes: a function of the episode's mode and seed.

    Args:
        config: of the run.
        global_step: decisions the network was trained for; None if only random play is shown.
    """

    def make(mode: str, seed: int) -> Overlay:
        who = "random play"
        if mode != "random" and global_step is not None:
            who = f"{config.head} head, {global_step:,} agent steps of training, {mode} play"
        names = action_names(config.atari)
        return Overlay(config.game, f"{who}, seed {seed}", names, config.frame_skip)

    return make
