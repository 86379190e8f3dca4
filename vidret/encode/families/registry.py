"""Load an encoder by name."""

import torch

from vidret.devices import choose_device
from vidret.encode.encoder import Encoder
from vidret.encode.families.custom import find_entry_point, is_class_name, load_custom
from vidret.encode.names import STARTER, WHOLE, refuse_merge, resolve_name, split_merge
from vidret.encode.precision import DTYPES, check_precision
from vidret.errors import EncoderError

HUBS = ("hf:", "st:", "endpoint:", "hf-hub:", "local-dir:")


def is_elsewhere(name: str) -> bool:
    """Return whether loading an encoder by a name may run code, download, or send frames and texts to an endpoint.

    >>> is_elsewhere("endpoint:https://host/v1?model=clip"), is_elsewhere("ViT-B-32/random"), is_elsewhere("starter")
    (True, False, False)
    """
    plain = resolve_name(split_merge(name.removesuffix(WHOLE))[0])
    if plain == STARTER or plain.endswith((".safetensors", ".pt", ".pth", ".bin", "/random")):
        return plain.startswith(HUBS)
    return plain.startswith(HUBS) or "/" in plain or is_class_name(plain) or find_entry_point(plain) is not None


def load_encoder(name: str = STARTER, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load an encoder by name.

    Args:
        name: ``starter``; ``small``, ``good``, ``best`` or ``multilingual`` for a recommended model; an open_clip
            model as ``ViT-B-32/laion2b_s34b_b79k`` or ``hf-hub:org/name``; an open_clip architecture with a local file
            as ``ViT-B-32//path/weights.safetensors``; the path of a local .safetensors or .pt file, including those
            written by ``vidret convert``; or ``ViT-B-32/random`` for random weights (for tests only); or a model of
            transformers, as ``hf:org/name`` or ``hf:FOLDER``, or of sentence-transformers, as ``st:org/name`` or
            ``st:FOLDER``; or your own class, as ``package.module:Class`` or the
            name of an entry point in the group ``vidret.encoders``; or an embeddings endpoint, as
            ``endpoint:URL?model=NAME``. The suffix ``#whole`` encodes every video as one
            segment, as benchmarks do. ``#merge=gentle`` or ``#merge=half``, before it, merges tokens of a CLIP ViT
            until 75 or 50 % of its multiply-adds are left: faster, and with other vectors.
        device: ``auto`` (the accelerator that PyTorch finds, else the CPU), ``cpu``, ``cuda``, ``cuda:N``, ``xpu``,
            ``xpu:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``. For CLIP, ``auto`` is bf16 where the hardware
            supports it, fp16 on Apple's chips, and on other CPUs with int8 instructions int8 for frames, if their
            vectors keep a cosine of 0.995 to fp32. For the starter it is fp32. int8 runs on CPUs, for CLIP ViTs.

    Each case imports its own libraries: open_clip takes seconds, and much of vidret runs without a model.

    Raises:
        DeviceError: There is no such device; raised before anything is loaded.
        EncoderError: The name or precision is unknown, the precision does not apply to the model or device, or the
            weights cannot be downloaded or do not fit.
        EndpointError: An endpoint does not answer.
        MissingExtraError: The packages of the starter, transformers or sentence-transformers, are not installed.
    """
    check_precision(precision)
    chosen = torch.device(choose_device(device))
    whole, (plain, merge) = name.endswith(WHOLE), split_merge(name.removesuffix(WHOLE))
    plain = resolve_name(plain)
    is_custom = is_class_name(plain) or find_entry_point(plain) is not None
    if plain == STARTER or plain.startswith(("hf:", "st:", "endpoint:")) or is_custom:
        refuse_merge(plain, merge)
    if plain == STARTER:
        from vidret.encode.families.starter import StarterEncoder

        if precision not in ("auto", "fp32", "bf16"):
            raise EncoderError(f"precision of the starter must be auto, fp32 or bf16, got {precision}")
        dtype = DTYPES["fp32" if precision == "auto" else precision]
        return StarterEncoder(device=chosen, dtype=dtype, whole=whole)
    if plain.startswith("hf:"):
        from vidret.encode.families.transformers_loading import load_transformers

        return load_transformers(plain, device=chosen, precision=precision, whole=whole)
    if plain.startswith("st:"):
        from vidret.encode.families.sentence_transformers import load_embedding_model

        return load_embedding_model(plain, device=chosen, precision=precision, whole=whole)
    if plain.startswith("endpoint:"):
        from vidret.encode.families.endpoint import EndpointEncoder

        if precision != "auto":
            raise EncoderError(f"precision of an endpoint must be auto, got {precision}")
        return EndpointEncoder(plain, whole=whole)
    if is_custom:
        return load_custom(plain, device=str(chosen), precision=precision, whole=whole)
    from vidret.encode.families.clip import load_clip

    return load_clip(plain, device=chosen, precision=precision, whole=whole, merge=merge)
