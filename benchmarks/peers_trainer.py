"""``transformers``' ``Trainer``, one step at a time: it runs in a thread of its own and waits after each step.

So it can take turns with others, and what it does between two steps (its data loader, scheduler, logging) counts.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any

from sizes import Work
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

_MOST = 10**6  # steps; it is stopped before


class Rows(Dataset[dict[str, Tensor]]):
    """The rows of the batch again and again."""

    def __init__(self, work: Work) -> None:
        self.rows = work.rows()[0].cpu()

    def __len__(self) -> int:
        return 1024 * len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index % len(self.rows)]
        return {"input_ids": row, "labels": row}


class Running(TrainerCallback):
    """A training that is under way in a thread and goes on by one step whenever it is told to."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._stopping = False
        self._error: BaseException | None = None

    def start(self, trainer: Any) -> None:
        """Begin; it stands before its first step."""
        self._thread = threading.Thread(target=self._train, args=(trainer,), daemon=True)
        self._thread.start()
        self._wait()

    def _train(self, trainer: Any) -> None:
        try:
            trainer.train()
        except BaseException as error:
            self._error = error
        self._done.release()

    def step(self) -> None:
        """One step, from the end of the last one to its own."""
        self._go.release()
        self._wait()

    def stop(self) -> None:
        """End the training, which takes one more step."""
        self._stopping = True
        self._go.release()
        self._thread.join()

    def _wait(self) -> None:
        self._done.acquire()
        if self._error:
            raise self._error

    def _stand(self) -> None:
        self._done.release()
        self._go.acquire()

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """As of ``TrainerCallback``."""
        self._stand()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """As of ``TrainerCallback``."""
        if self._stopping:
            control.should_training_stop = True
        else:
            self._stand()


def start_trainer(model: nn.Module, work: Work, compiled: bool) -> Running:
    """A ``Trainer`` on the work's rows with its defaults; fp32, or bf16 as the weights are, without autocasting."""
    if work.device == "cpu":
        # accelerate imports DeepSpeed where it is, which says so if it finds no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    running = Running()
    arguments = TrainingArguments(
        output_dir=running.folder.name,
        per_device_train_batch_size=work.batch,
        max_steps=_MOST,
        optim="adamw_torch_fused",
        torch_compile=compiled,
        use_cpu=work.device == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=work.device != "cpu",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(work), callbacks=[running])
    trainer.remove_callback(PrinterCallback)
    running.start(trainer)
    return running
