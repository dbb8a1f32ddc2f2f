"""Libraries that people train with, on the virtual device: accelerate, transformers' Trainer, Lightning, peft."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import mpsprobe
from tests.models.test_training import LLAMA

pytestmark = [pytest.mark.own_process, pytest.mark.filterwarnings("ignore")]  # theirs, not ours


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def test_accelerate_places_and_trains() -> None:
    accelerate = pytest.importorskip("accelerate")
    samples: Any = [(torch.full((8,), float(k % 2)), k % 2) for k in range(16)]
    with mpsprobe.emulate(torch="2.8", macos="15.5"):
        accelerator = accelerate.Accelerator()
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(samples, batch_size=4))
        losses = []
        for _ in range(3):
            for x, y in loader:
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
        assert accelerator.device.type == "mps"
    assert losses[-1] < losses[0]


def test_transformers_trainer_runs_an_epoch(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    rows: Any = [{"input_ids": torch.arange(k, k + 8), "labels": torch.arange(k, k + 8)} for k in range(8)]
    with mpsprobe.emulate(torch="2.8", macos="15.5"):
        torch.manual_seed(0)
        known = {name: size for name, size in LLAMA.items() if name not in ("architectures", "model_type")}
        model = LlamaForCausalLM(LlamaConfig(**known))
        options = TrainingArguments(
            str(tmp_path),
            num_train_epochs=1,
            per_device_train_batch_size=4,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, options, train_dataset=rows)
        found = trainer.train()
        assert options.device.type == "mps"
        assert next(trainer.model.parameters()).device.type == "mps"
    assert found.global_step == 2
    assert found.training_loss > 0


def test_lightning_trains_on_mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("pytorch_lightning")
    # it takes MPS for available where torch does and the processor is an Arm one
    monkeypatch.setattr(platform, "processor", lambda: "arm")

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()
            self.losses: list[float] = []
            self.devices: set[str] = set()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            x, y = batch
            loss = nn.functional.cross_entropy(self.inner(x), y)
            self.losses.append(loss.item())
            self.devices.add(x.device.type)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    samples: Any = [(torch.full((8,), float(k % 2)), k % 2) for k in range(16)]
    with mpsprobe.emulate(torch="2.8", macos="15.5"):
        trainer = lightning.Trainer(
            accelerator="mps",
            devices=1,
            max_epochs=2,
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model = Classifier()
        trainer.fit(model, DataLoader(samples, batch_size=4))
    assert model.devices == {"mps"}
    assert len(model.losses) == 8
    assert model.losses[-1] < model.losses[0]


def test_merged_lora_gives_what_the_adapter_gave() -> None:
    peft = pytest.importorskip("peft")
    with mpsprobe.emulate(torch="2.8", macos="15.5"):
        x = torch.randn(4, 8).to("mps")
        config = peft.LoraConfig(target_modules=["0", "2"], init_lora_weights=False)
        model = peft.get_peft_model(network().to("mps"), config)
        apart = model(x)
        together = model.merge_and_unload()(x)
        torch.testing.assert_close(together.cpu(), apart.cpu())
