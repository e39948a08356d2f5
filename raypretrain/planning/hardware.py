"""GPUs and the links between them, as data. Peaks are those of dense matrices, without sparsity."""

from __future__ import annotations

from dataclasses import dataclass, replace

from raypretrain.config import nearest
from raypretrain.errors import InputError
from raypretrain.planning.memory import GIB

PRICES_ON = "2025-06"
"""When the prices were what they are given as. They fall: give your own."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A device.

    Args:
        flops: operations a second of dense matrix products in bf16 (fp16 where it has no bf16), of the data sheet.
        flops_fp32: in fp32; on GPUs since Ampere with TF32 off.
        memory: bytes that a program can have of it.
        bandwidth: bytes a second of its memory.
        link: bytes a second, each way, to a neighbour in its node.
        network: bytes a second, each way, of its share of the node's network, unless ``--network`` says otherwise.
        per_node: how many a node has.
        watts: at most.
        price: dollars an hour, on demand; 0 where none is known.
        efficiency: whose measured efficiencies are taken: ``ampere`` or ``hopper``; those of a GPU of another
            generation are a guess.
        measured: whether the efficiencies were measured on this generation.
        source: of the figures.
    """

    name: str
    flops: float
    flops_fp32: float
    memory: float
    bandwidth: float
    link: float
    network: float
    watts: float
    price: float
    efficiency: str
    source: str
    per_node: int = 8
    measured: bool = True


def _gpu(
    name: str, tflops: float, fp32: float, gib: float, tb: float, link: float, watts: float, price: float,
    efficiency: str, source: str, network: float = 50.0, per_node: int = 8, measured: bool = True,
) -> Gpu:  # fmt: skip
    return Gpu(
        name=name, flops=tflops * 1e12, flops_fp32=fp32 * 1e12, memory=gib * GIB, bandwidth=tb * 1e12,
        link=link * 1e9, network=network * 1e9, watts=watts, price=price, efficiency=efficiency, source=source,
        per_node=per_node, measured=measured,
    )  # fmt: skip


# Memory is what nvidia-smi gives out less the driver's part, a guess of 1 to 2 %. Links: half of the data sheet's sum
# of both ways. Networks are those of the usual clusters: a port of 200 Gb/s for each A100, of 400 Gb/s for each H100
# (NVIDIA's reference designs, DGX A100 and DGX H100 SuperPOD). Prices of p3, p4d, p4de, p5, p5e, g5, g6, g6e: AWS, on
# demand, by GPU, after the reductions of June 2025, as remembered; the others of clouds that rent single GPUs, as
# remembered as well. All prices are guesses until you give --price.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("v100", 125, 15.7, 31.5, 0.9, 150, 300, 3.06, "ampere", "data sheet V100 SXM2, 2020; fp16",
             network=12.5, measured=False),
        _gpu("a100-40gb", 312, 19.5, 39.4, 1.555, 300, 400, 2.74, "ampere", "data sheet A100 SXM, 2021", network=25),
        _gpu("a100", 312, 19.5, 79.1, 2.039, 300, 400, 3.43, "ampere", "data sheet A100 SXM, 2021", network=25),
        _gpu("h100", 989.4, 66.9, 79.1, 3.35, 450, 700, 6.88, "hopper", "data sheet H100 SXM5, 2023"),
        _gpu("h200", 989.4, 66.9, 139.0, 4.8, 450, 700, 7.91, "hopper", "data sheet H200 SXM, 2024"),
        _gpu("b200", 2250, 80.0, 177.0, 8.0, 900, 1000, 14.24, "hopper", "data sheet HGX B200, 2024",
             measured=False),
        _gpu("a10g", 70, 35.0, 22.0, 0.6, 12, 300, 2.04, "ampere", "data sheet A10G, 2021; PCIe 4",
             network=3.1, measured=False),
        _gpu("l4", 121, 30.3, 22.0, 0.3, 12, 72, 1.0, "ampere", "data sheet L4, 2023; PCIe 4",
             network=3.1, measured=False),
        _gpu("l40s", 362, 91.6, 44.4, 0.864, 25, 350, 1.86, "ampere", "data sheet L40S, 2023; PCIe 4",
             network=6.2, measured=False),
        _gpu("rtx-4090", 165.2, 82.6, 23.5, 1.008, 12, 450, 0.5, "ampere",
             "white paper Ada, 2023; fp32 accumulation, PCIe 4", network=1.2, measured=False),
        _gpu("mi300x", 1307.4, 163.4, 188.0, 5.3, 64, 750, 3.0, "hopper", "data sheet MI300X, 2023",
             measured=False),
        # docs/performance.md, profile_step.py: the fastest product of one thread of an EPYC with avx512_bf16.
        _gpu("cpu", 0.208, 0.105, 8.0, 0.02, 5, 10, 0.05, "cpu",
             "docs/performance.md: one core of an AMD EPYC with avx512_bf16", network=1.2, per_node=2),
    )
}  # fmt: skip

SPOT = 0.4
"""Of the price on demand. A guess: 30 to 60 % off the price were usual for GPUs on AWS; it changes by the hour."""

NETWORKS: dict[str, tuple[float, str]] = {
    "infiniband-ndr": (50e9, "400 Gb/s a GPU (NVIDIA ConnectX-7)"),
    "infiniband-hdr": (25e9, "200 Gb/s a GPU (NVIDIA ConnectX-6)"),
    "efa-p5": (50e9, "3,200 Gb/s a node of 8 (AWS p5)"),
    "efa-p4d": (6.25e9, "400 Gb/s a node of 8 (AWS p4d)"),
    "ethernet-100": (1.5625e9, "100 Gb/s a node of 8"),
    "ethernet-25": (0.390625e9, "25 Gb/s a node of 8"),
}
"""Bytes a second that a GPU has of its node's network, each way; the makers' data."""

LATENCY = 10e-6
"""Seconds of each doubling of the nodes that a collective has to cross. A guess: 5 to 20 µs are usual for RDMA."""

_GIVEN = {"tflops": ("flops", 1e12), "memory": ("memory", GIB), "bandwidth": ("bandwidth", 1e12),
          "link": ("link", 1e9), "network": ("network", 1e9), "watts": ("watts", 1), "price": ("price", 1),
          "per_node": ("per_node", 1)}  # fmt: skip


def find_gpu(text: str) -> Gpu:
    """The GPU of a name, or of a name with figures of one's own: ``mine,tflops=400,memory=48,bandwidth=1``.

    Raises:
        InputError: there is none of the name, and its figures are not given.
    """
    name, *figures = [part.strip() for part in text.split(",")]
    known = GPUS.get(name.lower().replace("_", "-"))
    if known and not figures:
        return known
    how = "give its figures: --gpu NAME,tflops=…,memory=… (GiB),bandwidth=… (TB/s),link=… (GB/s)"
    if not known and not figures:
        guess = nearest(name.lower(), GPUS)
        hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(GPUS)}."
        raise InputError(f"there is no GPU '{name}'", where="--gpu", fix=f"{hint} Or {how}")
    given = dict(_figure(figure, how) for figure in figures)
    if not known and not {"flops", "memory", "bandwidth"} <= given.keys():
        raise InputError(f"'{name}' needs tflops, memory and bandwidth", where="--gpu", fix=how)
    pattern = known or replace(GPUS["h100"], price=0.0, link=given.get("bandwidth", 0.0) / 8, measured=False)
    source = "given" if not known else f"{pattern.source}; {', '.join(figures)} given"
    ints = {key: int(value) if key == "per_node" else value for key, value in given.items()}
    made: Gpu = replace(pattern, name=name, source=source, **ints)  # type: ignore[arg-type]
    return made


def with_network(gpu: Gpu, name: str | None) -> Gpu:
    """The GPU in a cluster with this network between its nodes; None keeps what is usual.

    Raises:
        InputError: there is none of the name.
    """
    if name is None:
        return gpu
    if name not in NETWORKS:
        guess = nearest(name, NETWORKS)
        hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(NETWORKS)}"
        fix = f"{hint} Or give it in figures: --gpu {gpu.name},network=… (GB/s a GPU)"
        raise InputError(f"there is no network '{name}'", where="--network", fix=fix)
    return replace(gpu, network=NETWORKS[name][0])


def _figure(text: str, how: str) -> tuple[str, float]:
    key, _, value = text.partition("=")
    if key not in _GIVEN:
        raise InputError(
            f"'{key}' is no figure of a GPU", where="--gpu", fix=f"{how}; known: {', '.join(_GIVEN)}"
        )
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise InputError(f"{key}: '{value}' is not greater than 0", where="--gpu", fix=how)
    field, unit = _GIVEN[key]
    return field, number * unit
