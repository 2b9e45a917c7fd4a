"""Recordings of different lengths in batches of two shapes: waveforms and lengths, as torchaudio's models take them.

Run: python examples/audio.py [STEPS]

A small network of convolutions says which of four tones it hears. A frame counts where all of its samples are real, so that the
answer for a recording is what it is alone, without padding. ``fixshape audit examples/audio.py`` finds nothing.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fixshape
from fixshape.collate import PadSequences, valid_mask
from fixshape.ops import masked_batch_norm, masked_mean

TONES = (330, 440, 590, 790)  # Hz
RATE = 8000


class Recordings(Dataset):
    """(waveform [1, t], which tone): a tenth to a quarter of a second of a noisy tone, and of each sixteenth twice as much."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        tone, samples = index % len(TONES), int(torch.randint(800, 2001, (1,), generator=random))
        if index % 16 == 0:
            samples *= 2
        wave = torch.sin(2 * torch.pi * TONES[tone] * torch.arange(samples) / RATE)
        return (wave + 0.3 * torch.randn(samples, generator=random))[None], tone


class Convolution(nn.Module):
    """A convolution, and batch normalisation over the real frames of all recordings."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels, kernel, stride, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x, lengths):
        x = self.conv(x)  # [B, C, T]
        lengths = (lengths - self.conv.kernel_size[0]).div(self.conv.stride[0], rounding_mode="floor") + 1
        rows, norm = x.transpose(1, 2).flatten(0, 1), self.norm
        rows = masked_batch_norm(
            *(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training, norm.momentum, norm.eps),
            valid_mask=valid_mask(lengths, x.shape[2]).flatten(),
        )
        return rows.relu().unflatten(0, (len(x), -1)).transpose(1, 2), lengths


class Listener(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Convolution(1, 32, 64, 16), Convolution(32, 32, 5, 2)])
        self.head = nn.Linear(32, len(TONES))

    def forward(self, waveforms, lengths):
        x = waveforms
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        frames = x.transpose(1, 2)
        return self.head(masked_mean(frames, 1, valid_mask=valid_mask(lengths, frames.shape[1])))


pad = PadSequences((2000, 4000), dim=-1)


def collate(samples):
    waves, tones = zip(*samples, strict=True)
    return *pad(waves), torch.tensor(tones)


def main(steps: int = 40) -> None:
    torch.manual_seed(0)
    data = Recordings(8 * steps)
    loader = DataLoader(data, batch_size=8, collate_fn=collate)
    model = Listener()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    watched = fixshape.watch(loader, backend="cpu", guard=fixshape.CompileGuard("error"))
    for waveforms, lengths, tones in watched:
        loss = nn.functional.cross_entropy(model(waveforms, lengths), tones)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    first, later = (sum(r.op_compiles for r in watched.records if r.in_warmup == here) for here in (True, False))
    print(
        f"op compiles in batches of {len({r.shapes for r in watched.records})} shapes: {first} in the warm-up, {later} after it"
    )

    model.eval().double()
    with torch.no_grad():
        waveforms, lengths, _ = collate([data[index] for index in range(8)])
        together = model(waveforms.double(), lengths)
        alone = [model(data[index][0][None].double(), lengths[index : index + 1]) for index in range(8)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)
    print("the same answers as without padding")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
