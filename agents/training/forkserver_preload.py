"""Imported by the fork server alone, once for all the processes it forks."""

import gc

import cv2  # noqa: F401 - every process needs it, see `child_process.init_child`

import agents.networks.neurocoder_kernel
import agents.training.worker_pool  # noqa: F401 - imports what workers and learner run

# The garbage collector writes to every object it visits, which would give each process its own copy
# of the shared pages.
gc.collect()
gc.freeze()
