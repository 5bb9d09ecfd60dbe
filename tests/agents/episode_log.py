"""A callback that keeps everything it is called with."""

from agents.evaluation.episode import EpisodeCallback


class EpisodeLog(EpisodeCallback):
    """Attributes `calls`, `steps` and `outputs` grow over all episodes."""

    def __init__(self, *, needs_frames=False, inspect_every=0):
        self.needs_frames, self.inspect_every = needs_frames, inspect_every
        self.calls, self.steps, self.outputs, self.results = [], [], [], []

    def on_start(self, mode, seed):
        self.calls.append(("start", mode, seed))

    def on_step(self, step, output):
        self.calls.append("step")
        self.steps.append(step)
        if output is not None:
            self.outputs.append(output)

    def on_end(self, result):
        self.calls.append(("end", result.seed))
        self.results.append(result)

    def on_abort(self):
        self.calls.append("abort")
