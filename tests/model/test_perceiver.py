"""The Perceiver against attention written out, and its key mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from cogaze.model.perceiver import Attention, Block, FeedForward, Perceiver


def attend(module: Attention, queries: Tensor, data: Tensor) -> Tensor:
    """One image (M,D) over (T,D), head by head."""
    inner = module.to_query.weight.shape[0]
    size = inner // module.heads
    q = linear(queries, module.to_query.weight)
    k, v = linear(data, module.to_key_value.weight).split(inner, dim=1)
    heads = []
    for h in range(module.heads):
        part = slice(h * size, (h + 1) * size)
        heads.append(torch.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=1) @ v[:, part])
    return linear(torch.cat(heads, dim=1), module.out.weight, module.out.bias)


def feed(module: FeedForward, x: Tensor) -> Tensor:
    x = linear(norm(module.norm, x), module.up.weight, module.up.bias)
    half = x.shape[1] // 2
    return linear(x[:, :half] * gelu(x[:, half:]), module.down.weight, module.down.bias)


def norm(module: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], module.weight, module.bias, 1e-5)


def by_hand(blocks: list[Block], z: Tensor, data: Tensor) -> Tensor:
    for b in blocks:
        z = z + attend(b.cross, norm(b.norm_latents, z), norm(b.norm_data, data))
        z = z + feed(b.cross_ff, z)
        z = z + attend(b.self_attention, norm(b.norm_self, z), norm(b.norm_self, z))
        z = z + feed(b.self_ff, z)
    return z


def make() -> tuple[Perceiver, Tensor, Tensor]:
    torch.manual_seed(0)
    perceiver = Perceiver(width=6, depth=2, heads=2, head_dim=5, ff_mult=3).double()
    for p in perceiver.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return perceiver, torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 7, 6, dtype=torch.float64)


def test_equals_the_formula() -> None:
    perceiver, latents, data = make()
    got = perceiver(latents, data)
    for image in range(3):
        want = by_hand(list(perceiver.blocks), latents[image], data[image])  # type: ignore[arg-type]
        torch.testing.assert_close(got[image], want, rtol=1e-12, atol=1e-12)


def test_masked_keys_are_not_there() -> None:
    perceiver, latents, data = make()
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    got = perceiver(latents, data, mask)
    for image, length in enumerate((7, 4, 1)):
        want = perceiver(latents[image : image + 1], data[image : image + 1, :length])
        torch.testing.assert_close(got[image : image + 1], want, rtol=1e-12, atol=1e-12)


def test_parameter_count() -> None:
    """Width 768, depth 3, 8 heads of 64, mult 4: the published Perceiver's 52.07 M hold 128 latents it never uses."""
    with torch.device("meta"):
        perceiver = Perceiver(768, 3, 8, 64, 4)
    count = sum(p.numel() for p in perceiver.parameters())
    assert round((count + 128 * 768) / 1e6, 2) == 52.07
