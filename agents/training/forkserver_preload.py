"""Loaded by the fork server alone, once for all the processes that come from it."""

import gc

import cv2  # noqa: F401 - every process wants it, see `children.init_child`

# The collector would write into every object that it looks at, and so give each process a copy of
# the pages that they share.
gc.collect()
gc.freeze()
