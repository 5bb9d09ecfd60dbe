"""The actor-critic network: torso, core and heads, and the inspection of its programs."""
