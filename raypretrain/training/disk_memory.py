"""CPU tensors whose memory is files on a disk, paged in and out by the kernel: what ``offload: nvme`` is made of.

What it saves is memory that cannot be given back; ZeRO-Infinity (Rajbhandari et al., 2021) has the same parts on NVMe.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from raypretrain.errors import StorageError


class DiskMemory:
    """Tensors in files below ``folder``, which is made. The files have no names, so none stays after its process."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def empty_like(self, tensor: Tensor) -> Tensor:
        """A CPU tensor of the same shape and dtype, contiguous.

        Raises:
            StorageError: the folder cannot be written, or its disk has not the space.
        """
        if not tensor.numel():
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix="offload-") as file:
                # Space that is missing is an error now; a page that cannot be written later would end the process.
                os.posix_fallocate(file.fileno(), 0, tensor.nbytes)
                flat = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
        except OSError as error:
            raise StorageError(
                f"{tensor.nbytes:,} bytes of the optimizer's state cannot be kept here ({error.strerror or error})",
                where=f"compute.offload_folder {self.folder}",
                fix="name a folder on a disk of each node with room for 16 bytes a parameter, over all workers",
            ) from None
        return flat.view(tensor.shape)

    def moved(self, tensor: Tensor) -> Tensor:
        """``tensor`` if its memory is a file already, else such a copy of it."""
        if tensor.untyped_storage().filename is not None:
            return tensor
        return self.empty_like(tensor).copy_(tensor)
