"""Video frames with an overlay: the game, and what the network computed when it played.

The game fills the upper left; beside it are the policy, the score and the value. Below are the
programs of actor and critic, where the heads compose any:

    +---------------+--------+---------+
    |     game      | policy |  score, |
    |               |        |  value  |
    +---------------+--------+---------+
    |  actor's program  |   critic's   |
    +----------------------------------+
"""

from collections.abc import Callable, Sequence

import numpy as np

from agents.config import TrainConfig
from agents.evaluation import program_plots
from agents.evaluation.drawing import (
    ACCENT,
    BAR,
    LARGE,
    LOSS,
    MUTED,
    NOTE,
    RULE,
    TEXT,
    TICK,
    Box,
    Canvas,
    Colour,
    draw_attention_legend,
    draw_bar,
    draw_heading,
    draw_line,
    draw_text,
    draw_ticks,
    fill_rect,
    new_canvas,
    text_width,
)
from agents.evaluation.episode import StepResult
from agents.evaluation.program_plots import GrowingAxis, draw_program
from agents.evaluation.results import format_score
from agents.evaluation.video import HEIGHT as GAME_HEIGHT
from agents.evaluation.video import WIDTH as GAME_WIDTH
from agents.evaluation.video import Image
from agents.networks.inspection import NeurocoderProgram, PolicyOutput
from envs import action_names

WIDTH = 1280
CURVE_SECONDS = 20
REWARD_SECONDS = 2 / 3  # a reward lasts one step; shown for this long, it can be read

# The layout. Everything is drawn into one of these.
_GAME = Box(0, 0, GAME_WIDTH, GAME_HEIGHT)
_TITLE = Box(664, 16, 592, 48)
_POLICY = Box(664, 84, 290, 380)
_SCORE = Box(984, 84, 272, 60)
_VALUE = Box(984, 164, 272, 200)
_ATTENTION = Box(984, 402, 272, 54)
# The plots' y puts the heat maps on whole blocks of 8 x 8 pixels, see `program_plots`.
_ACTOR = Box(16, 482, program_plots.WIDTH, program_plots.HEIGHT)
_CRITIC = Box(656, 482, program_plots.WIDTH, program_plots.HEIGHT)
_PROGRAM_RULE = Box(640, 494, 1, 212)
_VALUE_CURVE = _VALUE.inset(left=30, top=72, bottom=18)
_NAME_GAP, _SHARES = 10, 38  # between an action's name and its bar; right of the bars


class Overlay:
    """Draws one episode's frames together with what the network computed.

    Args:
        title: The game.
        subtitle: Who plays.
        action_names: The names of the A actions.
        steps_per_second: Agent steps in a second of the video.
        value: What the value estimates.
    """

    def __init__(
        self,
        title: str,
        subtitle: str,
        action_names: Sequence[str],
        steps_per_second: float,
        value: str = "clipped rewards to come",
    ) -> None:
        self.title, self.subtitle, self.action_names = title, subtitle, tuple(action_names)
        self._steps_per_second, self._value_heading = steps_per_second, value
        self._background: Canvas | None = None
        self._panels: Image | None = None
        self._drawn_step = 0
        self._values: list[float] = []
        self._rewards: list[float] = []
        self._highest, self._lowest = GrowingAxis(), GrowingAxis()
        self._actor, self._critic = GrowingAxis(), GrowingAxis()

    def render(self, frame: Image, output: PolicyOutput | None, step: StepResult) -> Image:
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
        if self._panels is None or step.length != self._drawn_step:
            self._panels = np.asarray(self._draw_panels(output, step))
            self._drawn_step = step.length
        image = self._panels.copy()
        image[: _GAME.bottom, : _GAME.right] = frame
        return image

    def _draw_panels(self, output: PolicyOutput | None, step: StepResult) -> Canvas:
        if self._background is None:
            self._background = self._draw_background(output)
        canvas = self._background.copy()
        self._rewards.append(step.reward)
        self._draw_policy(canvas, output, step.action)
        self._draw_score(canvas, step)
        if output is not None:
            self._draw_value(canvas, float(output.value))
            if output.actor is not None:
                draw_program(canvas, _ACTOR, "Actor", output.actor, self._actor)
            if output.critic is not None:
                draw_program(canvas, _CRITIC, "Critic", output.critic, self._critic)
        return canvas

    def _draw_background(self, output: PolicyOutput | None) -> Canvas:
        """Draw what stays the same for the whole episode."""
        has_programs = output is not None and (output.actor or output.critic) is not None
        canvas = new_canvas(WIDTH, _ACTOR.bottom if has_programs else _GAME.bottom)
        draw_text(canvas, self.title, _TITLE.x, _TITLE.y + 24, 24)
        draw_text(canvas, self.subtitle, _TITLE.x, _TITLE.y + 46, 13, MUTED)
        draw_heading(canvas, _SCORE, "Score")
        if output is None:
            draw_heading(canvas, _POLICY, "Policy", "random: there is no network")
            return canvas
        draw_heading(canvas, _POLICY, "Policy", "probability, % (line: all equal)")
        draw_heading(canvas, _VALUE, "Value estimate", self._value_heading)
        draw_ticks(canvas, _VALUE_CURVE, f"{CURVE_SECONDS} s ago", "reward", "now")
        mark = Box(
            _VALUE_CURVE.middle - text_width("reward", TICK) // 2 - 6, _VALUE.bottom - 12, 2, 8
        )
        fill_rect(canvas, mark, ACCENT)
        if has_programs:
            fill_rect(canvas, _PROGRAM_RULE, RULE)
        if isinstance(output.actor, NeurocoderProgram):
            draw_heading(canvas, _ATTENTION, "Attention", "w, of each component to each slot")
            draw_attention_legend(canvas, _ATTENTION.inset(top=28, bottom=16))
        return canvas

    def _draw_policy(self, canvas: Canvas, output: PolicyOutput | None, action: int) -> None:
        count = len(self.action_names)
        names_width = max(text_width(name, NOTE) for name in self.action_names)
        bars = _POLICY.inset(left=names_width + _NAME_GAP, top=30, right=_SHARES)
        bars = bars._replace(height=min(bars.height, 30 * count))
        for i, (name, row) in enumerate(
            zip(self.action_names, bars.rows(count, gap=5), strict=True)
        ):
            chosen = i == action
            y = row.text_line + 1
            draw_text(canvas, name, bars.x - _NAME_GAP, y, NOTE, ACCENT if chosen else MUTED, "r")
            if output is not None:
                share = float(output.probabilities[i])
                draw_bar(canvas, row, share, ACCENT if chosen else BAR)
                even = row._replace(x=row.x + round(row.width / count), width=1)
                fill_rect(canvas, even, MUTED)
                colour = ACCENT if chosen else TEXT
                draw_text(canvas, f"{100 * share:.1f}", _POLICY.right, y, NOTE, colour, "r")

    def _draw_score(self, canvas: Canvas, step: StepResult) -> None:
        score, y = format_score(step.score), _SCORE.y + 56
        draw_text(canvas, score, _SCORE.x, y, LARGE)
        recent = [r for r in self._rewards[-self._steps_in(REWARD_SECONDS) :] if r]
        if recent:
            x = _SCORE.x + text_width(score, LARGE) + 12
            gained = sum(recent)
            sign = "+" if gained > 0 else ""
            draw_text(canvas, f"{sign}{format_score(gained)}", x, y, 20, _reward_colour(gained))
        clock = clock_text(step.length / self._steps_per_second)
        draw_text(canvas, clock, _SCORE.right, y, 16, MUTED, "r")

    def _draw_value(self, canvas: Canvas, value: float) -> None:
        self._values.append(value)
        self._highest.include(value if value > 0 else 0.0)
        self._lowest.include(-value if value < 0 else 0.0)
        # Noise on the other side of zero does not justify the other half of the axis.
        high, low = self._highest.end, -self._lowest.end
        high = high if high > -low / 20 else 0.0
        low = low if -low > high / 20 else 0.0
        if low == high:
            high = 1.0
        draw_text(canvas, f"{round(value, 2) + 0.0:.2f}", _VALUE.x, _VALUE.y + 56, LARGE)
        length = self._steps_in(CURVE_SECONDS)
        plot = _VALUE_CURVE
        draw_line(canvas, plot, self._values, length, low, high)
        for age, reward in enumerate(reversed(self._rewards[-length:])):
            if reward:
                x = plot.right - 1 - round((plot.width - 1) * age / (length - 1))
                fill_rect(canvas, Box(x - 1, plot.bottom - 12, 2, 12), _reward_colour(reward))
        draw_text(canvas, f"{high:g}", plot.x - 6, plot.y + 10, TICK, MUTED, "r")
        draw_text(canvas, f"{low:g}", plot.x - 6, plot.bottom, TICK, MUTED, "r")

    def _steps_in(self, seconds: float) -> int:
        return max(2, round(seconds * self._steps_per_second))


def clock_text(seconds: float) -> str:
    """Minutes and seconds, such as "1:05.3"."""
    minutes, tenths = divmod(round(10 * seconds), 600)  # rounded first: never 60 seconds
    return f"{minutes}:{tenths / 10:04.1f}"


def _reward_colour(reward: float) -> Colour:
    return ACCENT if reward > 0 else LOSS


OverlayFactory = Callable[[str, int], Overlay]


def overlay_factory(
    config: TrainConfig, global_step: int | None, *, did_play: bool = True
) -> OverlayFactory:
    """Make the overlays of a run's episodes: a function of the episode's mode and seed.

    Args:
        config: The run's settings.
        global_step: Agent steps the network was trained for; None if only random play is shown.
        did_play: Whether the network is the one that chose the actions.
    """

    def make(mode: str, seed: int) -> Overlay:
        who = "random play"
        if global_step is not None and (mode != "random" or not did_play):
            play = f"{mode} play" if did_play else f"{mode} play by another"
            who = f"{config.head} head, {global_step:,} agent steps of training, {play}"
        names = action_names(config.env)
        rate = config.env.steps_per_second
        value = f"{config.learned_rewards} to come"
        return Overlay(config.game, f"{who}, seed {seed}", names, rate, value)

    return make
