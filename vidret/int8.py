"""Rows of numbers in 8 bits: a scale a row, so that short rows keep as many digits as long ones."""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

INT8_MAX = 127


def pack_rows(rows: Float[Tensor, "*row dim"]) -> tuple[Int8[Tensor, "*row dim"], Float[Tensor, "*row"]]:
    """Round each row to 8 bits, its greatest magnitude to 127.

    Returns:
        The rounded rows, and what to multiply each by.
    """
    scales = rows.abs().amax(dim=-1) / INT8_MAX
    return (rows / scales.clamp(min=torch.finfo(rows.dtype).tiny)[..., None]).round().to(torch.int8), scales
