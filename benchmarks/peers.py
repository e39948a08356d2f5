"""The training step as others would write it: what ours is measured against.

All have the same precision, tokens, optimizer (torch's fused AdamW) and limit of the gradient's norm, and the same
shape or, where the architecture is another, about as many parameters. Each comes as it is and compiled by
``torch.compile``. A contestant whose library is not installed is left out with a line that says how to get it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peers_gpt2 import PlainGpt2, gpt2_flops_per_token
from sizes import Work
from torch import Tensor, nn

from raypretrain.models.compiling import compile_blocks, compiles
from raypretrain.models.cpu import use_cpus
from raypretrain.models.families import build
from raypretrain.models.shape import ModelShape

Form = Literal["eager", "compiled"]
FORMS: tuple[Form, ...] = ("eager", "compiled")
Step = Callable[[], None]
CLIP = 1.0


@dataclass
class Contestant:
    """Somebody's training step.

    Args:
        step: forward, backward and optimizer on the work's tokens.
        flops: of a token, as :meth:`ModelShape.flops_per_token` counts them.
        close: ends what it has running.
    """

    name: str
    form: Form
    model: nn.Module
    step: Step
    flops: int
    close: Callable[[], None] = field(default=lambda: None)

    @property
    def parameters(self) -> int:
        """Of its network; a weight that is used twice counts once."""
        return sum(weight.numel() for weight in self.model.parameters())


def bare_loop(model: nn.Module, compute_loss: Callable[[], Tensor], cosine: bool = False) -> Step:
    """The plainest training step: forward, backward, clip, optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000) if cosine else None

    def step() -> None:
        compute_loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if schedule:
            schedule.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ours_by_default(work: Work) -> Form:
    """How a run of ours that is long enough trains if its recipe says nothing: what the goals are for."""
    return "compiled" if compiles(work.device) else "eager"


def compile_ours(model: nn.Module) -> None:
    """As ``compute.compile: true`` does it."""
    compile_blocks(model)


def ours(work: Work, form: Form) -> Contestant:
    """Our network in a bare loop, in a process that is used as a worker of ours uses it."""
    if work.device == "cpu":
        use_cpus(torch.get_num_threads())
    model = build(work.shape)
    model.init_weights(0)
    work.place(model)
    if form == "compiled":
        compile_ours(model)
    inputs, targets = work.rows()
    step = bare_loop(model, lambda: model(inputs, targets))
    return Contestant("ours", form, model, step, work.shape.flops_per_token(work.length))


def transformers_llama(shape: ModelShape) -> Any:
    """``transformers``' ``LlamaForCausalLM`` of our shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    values = {key: value for key, value in shape.to_huggingface_config().items() if key != "model_type"}
    return LlamaForCausalLM(LlamaConfig(**values, use_cache=False))


def in_transformers(work: Work, form: Form) -> Contestant:
    """``LlamaForCausalLM`` in a bare loop, called as documented, with ``labels``."""
    model: Any = work.place(transformers_llama(work.shape))
    if form == "compiled":
        model.compile()
    ids, _ = work.rows()  # it shifts by itself, so that one position fewer counts
    step = bare_loop(model, lambda: model(input_ids=ids, labels=ids).loss)
    return Contestant("transformers", form, model, step, work.shape.flops_per_token(work.length))


def in_trainer(work: Work, form: Form) -> Contestant:
    """The same in ``transformers``' ``Trainer``."""
    from peers_trainer import start_trainer

    model = work.place(transformers_llama(work.shape))
    running = start_trainer(model, work, form == "compiled")
    flops = work.shape.flops_per_token(work.length)
    return Contestant("Trainer", form, model, running.step, flops, running.stop)


def litgpt_llama(shape: Any) -> Any:
    """litgpt's ``GPT`` configured as a Llama of our shape; the output matrix is the embedding where ours is."""
    from litgpt.config import Config
    from litgpt.model import GPT

    config = Config(
        block_size=shape.max_length,
        n_layer=shape.layers,
        n_embd=shape.width,
        n_head=shape.heads,
        n_query_groups=shape.key_value_heads,
        head_size=shape.head_width,
        vocab_size=shape.vocabulary,
        padded_vocab_size=shape.vocabulary,
        intermediate_size=shape.feed_forward,
        rotary_percentage=1.0,
        rope_base=int(shape.rope_theta),
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=shape.norm_eps,
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    model.apply(model._init_weights)
    if shape.tied:
        model.transformer.wte.weight = model.lm_head.weight
    return model


def in_litgpt(work: Work, form: Form) -> Contestant:
    """litgpt's network and loss, as its ``pretrain`` calls them; that compiles always."""
    from litgpt.utils import chunked_cross_entropy

    model: Any = work.place(litgpt_llama(work.shape))
    if form == "compiled":
        model.compile()
    inputs, targets = work.rows()
    step = bare_loop(model, lambda: chunked_cross_entropy(model(inputs), targets))
    return Contestant("litgpt", form, model, step, work.shape.flops_per_token(work.length))


def nanogpt_style(work: Work, form: Form) -> Contestant:
    """A GPT-2 of as many parameters in the style of nanoGPT, which compiles by default."""
    model: Any = work.place(PlainGpt2.as_large_as(work.shape, work.length))
    if form == "compiled":
        model.compile()
    inputs, targets = work.rows()
    step = bare_loop(model, lambda: model(inputs, targets), cosine=True)
    return Contestant("nanoGPT-style", form, model, step, gpt2_flops_per_token(model, work.length))


@dataclass(frozen=True)
class Entry:
    """Who can take part.

    Args:
        needs: the packages that it imports.
        install: how one gets them.
    """

    make: Callable[[Work, Form], Contestant]
    needs: tuple[str, ...] = ()
    install: str = ""

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


ENTRIES: dict[str, Entry] = {
    "ours": Entry(ours),
    "transformers": Entry(in_transformers, ("transformers",), "pip install transformers"),
    "Trainer": Entry(in_trainer, ("transformers", "accelerate"), "pip install transformers accelerate"),
    "litgpt": Entry(
        in_litgpt,
        ("litgpt", "lightning", "lightning_utilities", "torchmetrics"),
        "pip install --no-deps litgpt lightning lightning-utilities torchmetrics",
    ),
    "nanoGPT-style": Entry(nanogpt_style),
}
"""By name; ours is always there, and first."""


def taking_part(chosen: Iterable[str] | None = None) -> list[str]:
    """The names of those who are chosen, or of all, and are installed; says who is not.

    Raises:
        SystemExit: one is not known.
    """
    names = list(ENTRIES) if chosen is None else ["ours", *(name for name in chosen if name != "ours")]
    if unknown := [name for name in names if name not in ENTRIES]:
        raise SystemExit(f"there is no peer '{unknown[0]}'; known: {', '.join(list(ENTRIES)[1:])}")
    for name in names:
        if missing := ENTRIES[name].missing:
            how = ENTRIES[name].install
            print(f"{name} is left out: {', '.join(missing)} is not installed ({how})", flush=True)
    return [name for name in names if not ENTRIES[name].missing]
