"""Training on several machines, by Ray: one parameter server, and a node on every machine."""
