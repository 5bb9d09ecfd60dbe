"""The actor-critic network: torso, core and heads, and what its programs are."""
