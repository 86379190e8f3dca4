"""Where to compute: one device that encoder, head, decoder, FAISS, Ray workers and training share.

A device's full name is ``cpu``, ``cuda:N``, ``xpu:N`` or ``mps``. Encoder, head and training run on all of these but
training on ``xpu``; decoding and FAISS know the CPU and CUDA alone.
"""

from vidret.errors import DeviceError

AUTO, CPU = "auto", "cpu"
ACCELERATORS = ("cuda", "xpu", "mps")


def choose_device(name: str = AUTO) -> str:
    """Return a device's full name; ``auto`` is the accelerator that PyTorch sees, else the CPU.

    Raises:
        DeviceError: It is not the name of a device, or this machine has no such device.
    """
    import torch  # here, since decoding processes load this module and must not wait for torch

    if name == AUTO:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = CPU if found is None or found.type not in ACCELERATORS else found.type
    kind, colon, number = name.partition(":")
    if kind not in (CPU, *ACCELERATORS) or (colon and not (number.isascii() and number.isdecimal())):
        raise DeviceError(f"device must be auto, cpu, cuda, cuda:N, xpu, xpu:N or mps, got {name}")
    index, count = int(number or 0), 1 if kind == CPU else torch.get_device_module(kind).device_count()
    if index >= count:
        raise DeviceError(f"device must exist, got {name} on a machine with {count} {kind.upper()} devices")
    return kind if kind in (CPU, "mps") else f"{kind}:{index}"


def cuda_index(device: str) -> int | None:
    """Return N of ``cuda:N``, 0 of ``cuda``, and None of any other device: there decoding and FAISS use the CPU."""
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" else None
