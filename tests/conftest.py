"""For all tests: one thread, as the program itself runs."""

import torch

torch.set_num_threads(1)
