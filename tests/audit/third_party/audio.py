"""wav2vec 2.0 of transformers with the CTC loss, trained on tones of different lengths, padded to the longest of a batch."""

import argparse

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-4)
parser.add_argument("--batch-size", type=int, default=4)
options = parser.parse_args()


class Tones(Dataset):
    """Between a fifth and a half of a second at 16 kHz: 2 to 5 tones, and which they were."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        samples = int(torch.randint(3200, 8000, (1,), generator=random))
        tones = torch.randint(1, 12, (int(torch.randint(2, 6, (1,), generator=random)),), generator=random)
        pitch = (220 * 2 ** (tones / 12)).repeat_interleave(-(-samples // len(tones)))[:samples]
        wave = torch.sin(torch.cumsum(2 * torch.pi * pitch / 16000, 0)) + torch.randn(samples, generator=random) / 10
        return wave, tones


def collate(samples):
    waves, tones = zip(*samples, strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_values": pad(waves, batch_first=True),
        "attention_mask": pad([torch.ones(len(wave), dtype=torch.int64) for wave in waves], batch_first=True),
        "labels": pad(tones, batch_first=True, padding_value=-100),
    }


def main():
    torch.manual_seed(0)
    np.random.seed(0)  # SpecAugment draws from numpy
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Wav2Vec2Config(
        vocab_size=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(32, 32, 32, 32, 32, 32, 32),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.3,
        mask_time_length=4,
        layerdrop=0.1,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config).to(device).train()
    model.freeze_feature_encoder()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=options.lr)
    for step, batch in enumerate(DataLoader(Tones(), options.batch_size, collate_fn=collate)):
        loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
