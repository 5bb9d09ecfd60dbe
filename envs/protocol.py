"""What both ways of playing agree on: the protocol of Machado et al. (2018).

A *frame* is one picture of the console, 60 a second; a *decision* is one action of the agent, held
for `FRAME_SKIP` frames. What the agent sees after a decision is the pixelwise maximum of its last
two frames, in grey, shrunk to 84x84, as the newest of a stack of the last four such pictures. A new
game's stack starts with zeros: only its newest picture is filled.

A game opens with a number of no-op frames, drawn uniformly from 0 .. `noop_max` - 1 (so both 0 and
1 mean none). `fire_reset` presses FIRE for one frame before them, in games that have that button,
and takes the place of one no-op where any was drawn.

`max_frames` counts the frames of the agent's own decisions: the opening is not part of it. The
decision that reaches the limit stops there, be it in the middle of its four frames, and is reported
as truncated, unless the game ended on that very frame: then it is terminated. Both preprocessors
leave a game at its last frame without looking at it, so the last observation of a game, terminated
or truncated, is made of the frames before.

Source: Machado et al., Revisiting the Arcade Learning Environment, JAIR 61 (2018).
"""

FRAME_SKIP = 4
STACK_SIZE = 4
SCREEN_SIZE = 84
OBSERVATION_SHAPE = (STACK_SIZE, SCREEN_SIZE, SCREEN_SIZE)


def check_protocol(*, sticky_actions: float, noop_max: int, max_frames: int) -> None:
    """Check the settings that training and evaluation share.

    Raises:
        ValueError: a setting is out of its range; the message names it and the value.
    """
    if not 0.0 <= sticky_actions <= 1.0:
        raise ValueError(f"sticky_actions must be a probability in [0, 1], got {sticky_actions}")
    if noop_max < 0:
        raise ValueError(f"noop_max must not be negative, got {noop_max}")
    if max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
