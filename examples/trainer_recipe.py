"""transformers' Trainer: sequences padded to two lengths instead of to the longest, and a guard around its training step.

Run: python examples/trainer_recipe.py [STEPS]

A tiny BERT with random weights says which of two words a text has more of.
"""

import sys
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments, set_seed

import fixshape
from fixshape.collate import PadSequences

WORDS = 32
pad = PadSequences((16, 48), padding_value={"input_ids": 0})


class Texts(Dataset):
    """What a tokenizer gives: dicts of token ids and a label. 4 to 48 tokens, most texts are short."""

    def __init__(self, count):
        random = torch.Generator().manual_seed(0)
        lengths = (4 + 45 * torch.rand(count, generator=random) ** 4).int().tolist()
        self.ids = [torch.randint(1, WORDS, (length,), generator=random) for length in lengths]
        for ids in self.ids:
            ids[torch.rand(len(ids), generator=random) < 0.5] = 1 + int(torch.randint(0, 2, (1,), generator=random))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        ids = self.ids[index]
        return {"input_ids": ids, "labels": int((ids == 1).sum() > (ids == 2).sum())}


def collate(samples):
    """``pad`` is all that most models need. The mask is made [B, 1, 1, T], for into one of [B, T] transformers looks on the host.

    It asks whether anything is padded, and takes another way through the model, with other operators, where nothing is.
    """
    batch = pad(samples)
    batch["attention_mask"] = batch["attention_mask"].bool()[:, None, None]
    return batch


class GuardedTrainer(Trainer):
    """Each training step is one step of ``fixshape.watch``, forward to optimiser; logging, evaluation and saving are in none.

    Trainer runs the loop, so that ``watch`` is given one batch at a time. It knows from one to the next what has compiled.
    """

    def __init__(self, *args, guard, **options):
        super().__init__(*args, **options)
        self.current, self.step = [], None
        self.watched = fixshape.watch(self.current, backend=self.args.device.type, guard=guard, progress=False)
        self.add_callback(EndOfStep(self))

    def training_step(self, model, inputs, *args, **options):
        if self.step is None:  # with accumulated gradients, several batches make one step
            self.current[:] = [dict(inputs)]
            self.step = iter(self.watched)
            next(self.step)
        return super().training_step(model, inputs, *args, **options)


class EndOfStep(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **options):
        step, self.trainer.step = self.trainer.step, None
        next(step, None)  # the step ends here, and the guard judges it


def main(steps: int = 40) -> None:
    set_seed(0)
    texts = Texts(4 * steps)
    config = BertConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=4,
            dataloader_drop_last=True,  # a short batch is one more shape
            logging_nan_inf_filter=False,  # it reads the loss at each step
            learning_rate=3e-3,
            logging_steps=steps // 4,
            disable_tqdm=True,
            report_to=[],
            save_strategy="no",
            optim="adamw_torch",  # the default, a fused one, is not there for every device
            use_cpu=True,
        )
        guard = fixshape.CompileGuard("error")
        model = BertForSequenceClassification(config)
        trainer = GuardedTrainer(model, arguments, train_dataset=texts, data_collator=collate, guard=guard)
        trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    for shapes in sorted({record.shapes for record in trainer.watched.records}):
        compiles = [record.compiles for record in trainer.watched.records if record.shapes == shapes]
        print(f"compiles per step, {shapes}: {compiles}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
