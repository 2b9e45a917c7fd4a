"""Keep the loop that you have, and let ``watch`` say what each step does: warm-up or steady, and what compiles in it.

Run: python examples/own_loop.py [EPOCHS]

Sequences of 3 to 60 tokens, each tagged with whether it is larger than the one before, by a transformer of torch.nn.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

import fixshape
from fixshape.collate import PadSequences, key_padding_mask
from fixshape.ops import masked_cross_entropy
from fixshape.plan import plan_lengths

TOKENS = 32


def make_samples(count: int, seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    lengths = 3 + 58 * torch.rand(count, generator=random) ** 3  # most are short
    return [torch.randint(0, TOKENS, (length,), generator=random) for length in lengths.int().tolist()]


class Tagger(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.before = nn.Conv1d(width, width, 2)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)  # a nested tensor is as long as its content
        self.head = nn.Linear(width, 2)

    def forward(self, tokens, lengths):
        x = self.embedding(tokens)
        x = x + self.before(nn.functional.pad(x.transpose(1, 2), (1, 0))).transpose(1, 2)
        return self.head(self.encoder(x, src_key_padding_mask=key_padding_mask(lengths, tokens.shape[1])))


def loss_of(model, tokens, lengths):
    larger = (tokens > tokens.roll(1, dims=1)).long()
    valid_mask = fixshape.collate.valid_mask(lengths, tokens.shape[1])
    valid_mask[:, 0] = False  # nothing stands before the first
    return masked_cross_entropy(model(tokens, lengths).transpose(1, 2), larger, valid_mask=valid_mask)


def main(epochs: int = 3) -> None:
    torch.manual_seed(0)
    samples = make_samples(256, seed=1)
    collate = PadSequences(plan_lengths(map(len, samples), 2, multiple_of=8))
    loader = DataLoader(samples, batch_size=4, shuffle=True, drop_last=True, collate_fn=collate)
    held_out = DataLoader(make_samples(32, seed=2), batch_size=8, collate_fn=collate)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))

    guard = fixshape.CompileGuard("error")  # a step that compiles after the warm-up is an error, which names the line
    watched = fixshape.watch(loader, backend="cpu", guard=guard)
    for epoch in range(epochs):
        model.train()
        for tokens, lengths in watched:  # the one line of the loop that changes
            loss = loss_of(model, tokens, lengths)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            watched.log(loss)  # read one step later, so that the device need not wait
        model.eval()
        with torch.no_grad():  # between epochs nothing is watched; in the middle of one, evaluate under guard.pause()
            score = torch.stack([loss_of(model, *batch) for batch in held_out]).mean()
        print(f"epoch {epoch + 1}: held-out loss {score.item():.3f}")

    print(f"loss {watched.losses[0]:.3f} -> {watched.losses[-1]:.3f}")
    for shapes in sorted({record.shapes for record in watched.records}):
        records = [record for record in watched.records if record.shapes == shapes]
        first, later = (sum(record.op_compiles for record in part) for part in (records[:2], records[2:]))
        print(f"op compiles, batches {shapes}: {first} in the warm-up, {later} in {len(records) - 2} steps after it")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
