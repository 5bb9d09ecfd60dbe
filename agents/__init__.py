"""An A3C agent whose actor and critic are Neurocoder, HyperNet or linear heads.

from agents import TrainConfig, train
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.config import TrainConfig as TrainConfig
    from agents.launch import train as train


def __getattr__(name: str) -> Any:
    # Not imported before they are needed: some commands do without torch.
    if name == "TrainConfig":
        from agents.config import TrainConfig

        return TrainConfig
    if name == "train":
        from agents.launch import train

        return train
    raise AttributeError(f"module 'agents' has no attribute {name!r}")
