"""Make a vector-quantisation layer static: codebook lookup, moving averages, and dead codes replaced without ``nonzero``.

Run: python examples/vector_quantisation.py

The layer of VQ-VAE (van den Oord et al., 2017, arXiv 1711.00937, appendix A.1) on padded sequences. A code that is hardly used is
replaced by a real input, drawn at random (Dhariwal et al., 2020, arXiv 2005.00341). N positions, D features, K codes.
"""

import torch
from torch import nn

from fixshape.audit import run
from fixshape.collate import PadSequences, valid_mask
from fixshape.ops import masked_mse_loss

CODES, WIDTH, DECAY, LEAST = 32, 8, 0.9, 0.4


class Quantiser(nn.Module):
    """Moving averages of how often each code is used, and of the sum of its inputs; the codebook is their quotient."""

    def __init__(self, update):
        super().__init__()
        self.update = update
        self.register_buffer("usage", torch.ones(CODES))
        self.register_buffer("total", torch.randn(CODES, WIDTH))
        self.register_buffer("replaced", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs, valid, order):
        codebook = self.total / self.usage[:, None]
        codes = torch.cdist(inputs.detach(), codebook).argmin(1)
        looked_up = codebook[codes]
        loss = masked_mse_loss(inputs, looked_up, valid_mask=valid[:, None].expand_as(inputs))
        with torch.no_grad():
            self.update(self, inputs, codes, valid, order)
        return inputs + (looked_up - inputs).detach(), loss  # the gradient goes straight through


def as_it_was(layer, inputs, codes, valid, order):
    """As many rows as positions are real, a loop over the codes that came up, as many draws as codes are dead."""
    inputs, codes, order = inputs[valid], codes[valid], order[valid]
    layer.usage.mul_(DECAY)
    layer.total.mul_(DECAY)
    for code in codes.unique():
        own = inputs[codes == code]
        layer.usage[code] += (1 - DECAY) * len(own)
        layer.total[code] += (1 - DECAY) * own.sum(0)
    dead = (layer.usage < LEAST).nonzero().squeeze(1)
    drawn = inputs[order.argsort()[: len(dead)]]
    layer.usage[dead[: len(drawn)]] = 1
    layer.total[dead[: len(drawn)]] = drawn
    layer.replaced += len(drawn)


def as_it_shall_be(layer, inputs, codes, valid, order):
    """A row for every position, a column for every code, a draw for every code; masks choose."""
    inputs = torch.where(valid[:, None], inputs, 0)
    is_used = ((codes[:, None] == torch.arange(CODES, device=codes.device)) & valid[:, None]).to(inputs.dtype)  # [N, K]
    layer.usage.mul_(DECAY).add_((1 - DECAY) * is_used.sum(0))
    layer.total.mul_(DECAY).add_((1 - DECAY) * is_used.T @ inputs)
    dead = layer.usage < LEAST
    rank = dead.cumsum(0) - 1  # the first dead code gets the first draw, and so on
    drawn = inputs[torch.where(valid, order, torch.inf).argsort()][rank.clamp(0, len(inputs) - 1)]  # real positions come first
    dead = dead & (rank < valid.sum())
    layer.usage.copy_(torch.where(dead, 1, layer.usage))
    layer.total.copy_(torch.where(dead[:, None], drawn, layer.total))
    layer.replaced += dead.sum()


def make_batches(count: int):
    """Sequences of 5 to 60 features that move from batch to batch, padded; and the numbers by which inputs are drawn."""
    collate = PadSequences((32, 64))
    for _ in range(count):
        sequences = [torch.randn(int(length), WIDTH) + 2 * torch.randn(WIDTH) for length in torch.randint(5, 61, (4,))]
        features, lengths = collate(sequences)
        yield features.flatten(0, 1), valid_mask(lengths, features.shape[1]).flatten(), torch.rand(features[..., 0].numel())


def train(update, batches):
    torch.manual_seed(0)
    model, layer, decoder = nn.Linear(WIDTH, WIDTH), Quantiser(update), nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.SGD([*model.parameters(), *decoder.parameters()], lr=0.05)
    losses = []

    def step(batch):
        features, valid, order = batch
        quantised, commitment = layer(model(features), valid, order)
        loss = masked_mse_loss(decoder(quantised), features, valid_mask=valid[:, None].expand_as(features)) + commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    report = run(step, batches, steps=len(batches))
    print(f"{update.__name__}: dynamic-shape ops {report.total().dynamic}, host syncs {report.total().syncs}")
    print(f"op compiles per step: {[counts.compiles for counts in report.steps]}")
    return torch.stack(losses), layer.total / layer.usage[:, None], layer.replaced


def main() -> None:
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    batches = list(make_batches(12))
    wanted = train(as_it_was, batches)
    losses, codebook, replaced = train(as_it_shall_be, batches)
    torch.testing.assert_close((losses, codebook, replaced), wanted, rtol=1e-9, atol=1e-12)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, dead codes replaced: {replaced}")
    print("the same losses and the same codebook")


if __name__ == "__main__":
    main()
