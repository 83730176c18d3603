"""Distil a network on several processes: ``torchrun --nproc-per-node 2 distil.py``.

Each process passes its own batches. ``distill`` averages the gradients over the processes.
"""

import torch
import torch.distributed
from torch import nn

from pytest_dwsconv import distill, rewrite

torch.distributed.init_process_group("gloo")  # "nccl" where each process has a GPU of its own
rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()

torch.manual_seed(0)  # the same network in every process; yours is loaded with its weights
teacher = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 16, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.LazyLinear(10),
)
images = torch.rand(256, 3, 12, 12)  # yours; labels are not needed
teacher(images[:1])  # a lazy layer takes its size from the first input

student = rewrite(teacher, (1, 3, 12, 12), init="svd").model
own_batches = images[rank::processes].split(16)
done = distill(student, teacher, own_batches, steps=30, check_every=10, held_out=own_batches[:2])
if rank == 0:
    print(f"{processes} processes, the best weights are those of step {done.best_step}")
    torch.save(student.state_dict(), "student.pt")
torch.distributed.destroy_process_group()
