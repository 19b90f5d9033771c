"""MedTrainer: transformers' Trainer with a loss per supervised token, honest evaluation, and throughput."""

import contextlib
import functools
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.distributed.tensor import DTensor
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput

from medllm import ranks
from medllm.config.data import Batching
from medllm.config.trainer import Optimizer, TrainerConf
from medllm.conversation_losses import ConversationLosses
from medllm.data.pipeline import Datasets
from medllm.data.shares import EvenOrder, WithBlank, held_out_batches
from medllm.errors import NonFiniteError
from medllm.models.fused.engine import FusedEngine
from medllm.models.quantization import dequantized
from medllm.stopping import StopRequested, stop
from medllm.training.engine import flat_collator
from medllm.training.metrics import (
    EvalMetrics,
    SampleSums,
    conversation_losses,
    evaluate,
    precision,
    token_sums,
)
from medllm.training.order import SeededLengthGroupedSampler, faulty_micro_batches, rows_of_step
from medllm.training.out_of_memory import in_smaller_batches
from medllm.training.resumption import ResumableTrainer


class MedTrainer(ResumableTrainer):
    """Overrides, each with its reason.

    compute_loss: sums the loss over supervised tokens and divides by their number in the whole optimizer batch, so that
        it does not change with micro-batches, accumulation or packing; computes logits only where they are needed.
    training_step, get_batch_samples: count tokens; leave forward and backward to the fused engine where there is one, and
        make the next batch while it computes; sum over ranks what an optimizer step needs to know of all of them.
    get_train_dataloader, create_optimizer, _clip_grad_norm: the engine's batches lie end to end, and what it trains is one
        parameter.
    floating_point_ops: a number that nobody reads, counted over all parameters at every micro-batch.
    evaluation_loop, get_eval_dataloader: sums over counts in constant memory, each row once; the stock loop averages batch
        means, keeps logits, and gives ranks rows twice.
    _evaluate: ends between two batches when the run is asked to stop; whoever goes on evaluates first.
    _get_train_sampler: groups by length under every version of transformers 5, resumably; gives ranks no row twice.

    Attributes:
        step_loss: Loss of the newest optimizer batch, of all ranks, for the guard.
        step_losses: Parts of it that this rank's micro-batches had, on the device.
        eval_losses: Loss of each held-out conversation at the last evaluation; None before the first.
    """

    def __init__(self, *, conf: TrainerConf, datasets: Datasets, engine: FusedEngine | None = None, **arguments: Any):
        self.datasets = datasets
        self.control: Any
        self.optimizer: Any
        self.data_collator: Any
        several = ranks.world_size() > 1
        super().__init__(
            conf=conf,
            engine=engine,
            train_dataset=WithBlank(datasets.train.dataset) if several else datasets.train.dataset,
            eval_dataset=datasets.eval.dataset if datasets.eval else None,
            data_collator=datasets.collate,
            **arguments,
        )
        # The loss below is already divided by the optimizer batch's tokens: the Trainer must count and not divide again.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)
        if several:
            torch.manual_seed(self.args.seed + ranks.rank())  # or all ranks would drop out the same
        if engine is not None:  # torch's wrapper would wait for gradients of the model's own parameters
            ranks.spread(engine.parameter.data)  # as that wrapper does
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.step_loss = torch.zeros((), device=self.args.device)
        self.step_losses: list[torch.Tensor] = []
        self._losses: list[torch.Tensor] = []
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)  # loss, tokens, supervised ones
        self.eval_losses: ConversationLosses | None = None
        self._asked: Any = None
        self._ahead: tuple[Any, Any] | None = None

    def training_step(
        self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One micro-batch, forward and backward; returns its part of the optimizer batch's loss."""
        if self.engine is None:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch) / self.args.world_size
        else:
            if not model.training:  # setting thousands of modules takes milliseconds
                model.train()
            loss = self.engine.backward(inputs, 1.0 / torch.as_tensor(num_items_in_batch, device=self.args.device))
        counts = (inputs["num_tokens"].sum(), (inputs["labels"] != -100).sum())
        self._sums += torch.stack([value.detach().to(self._sums) for value in (loss, *counts)])
        self._losses.append(loss.detach())
        if self.accelerator.sync_gradients:
            self._end_batch()
        return loss

    def _end_batch(self) -> None:
        """After an optimizer step's last micro-batch: what all ranks made of it."""
        self._beginning.states = None  # from here on what is kept over steps changes
        if self.engine is not None:
            ranks.add_up(self.engine.grad)
            self._fetch_ahead()
        loss, tokens, supervised = ranks.add_up(self._sums).clone()
        self._sums.zero_()
        self.step_losses, self._losses = self._losses, []
        self.step_loss = loss.float()
        self.loss_sum += loss
        self.num_tokens += tokens.long()
        self.num_supervised_tokens += supervised.long()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Summed cross-entropy over the optimizer batch's supervised tokens; never returns outputs."""
        sums = token_sums(model, inputs)
        loss = sums.loss / (sums.count if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes afterwards
        return (loss, {}) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """An optimizer step's micro-batches, which the engine has fetched already where it could.

        None where there is nothing left to do: a run that goes on from its last step would train one too many.
        """
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return [], None
        if self._ahead is not None and self._ahead[0] is epoch_iterator:
            batches, self._ahead = self._ahead[1], None
            return batches
        self._ahead, self._asked = None, (epoch_iterator, num_batches, device)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _fetch_ahead(self) -> None:
        """Makes the next step's batch while the device computes this one; at the end of an epoch there is less or none."""
        self._ahead = (self._asked[0], super().get_batch_samples(*self._asked))

    def get_train_dataloader(self) -> Any:
        """Batches laid end to end where the engine takes them so; evaluation keeps its own layout."""
        if self.engine is None:
            return super().get_train_dataloader()
        collator = self.data_collator
        self.data_collator = flat_collator(self.datasets.train, self.engine.plan, self.engine.step.max_length)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """This rank's share of the held-out rows."""
        return held_out_batches(self.datasets, self.args.per_device_eval_batch_size)

    def create_optimizer(self, model: Any = None) -> Any:
        """One over the engine's parameter, whose gradient is zeroed in place and never let go."""
        if self.engine is None:
            return super().create_optimizer(*([] if model is None else [model]))
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            group = {"params": [self.engine.parameter], "weight_decay": self.args.weight_decay}
            self.optimizer = optimizer_class([group], **options)
            grad = self.engine.grad
            self.optimizer.register_step_post_hook(lambda *_: grad.zero_())
        return self.optimizer

    @property
    def skipping_optimizer(self) -> Any:
        """The optimizer, if it leaves out a step by itself where a number on the device says so; else None."""
        if self.engine is None or self.conf.optim is not Optimizer.adamw_torch_fused:
            return None
        return getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it

    def gradients(self) -> list[torch.Tensor]:
        """Of everything that is trained, or of this rank's part of it."""
        if self.engine is not None:
            return [self.engine.grad]
        found = (parameter.grad for parameter in self.model.parameters() if parameter.grad is not None)
        return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in found]

    def where(self, step: int, losses: list[torch.Tensor]) -> str:
        """The micro-batches that made an optimizer step non-finite, and their conversations by id, to show.

        Args:
            step: From 1.
            losses: Its `step_losses`.
        """
        rows = rows_of_step(self.get_train_dataloader(), step, self.args.gradient_accumulation_steps)
        return faulty_micro_batches(self.datasets.train, rows, torch.stack(losses).isfinite().tolist())

    def gather_weights(self, dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
        """The whole model in this precision on the CPU of rank 0; None where every rank holds it anyway."""
        if not self.conf.fsdp:
            return None
        return {name: weight.to(dtype) for name, weight in self.accelerator.get_state_dict(self.model).items()}

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.engine is None:
            return super()._clip_grad_norm(model)
        return torch.nn.utils.clip_grad_norm_([self.engine.parameter], self.args.max_grad_norm)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """None are counted."""
        return 0

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        known = len(self.state.log_history)
        # Ranks would not be cut short at the same batch.
        with stop.cutting_short() if self.args.world_size == 1 else contextlib.nullcontext():
            try:
                metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
            except StopRequested:
                del self.state.log_history[known:]
                self.control.should_evaluate = False
                self.control.should_save = self.control.should_training_stop = True
                metrics = {}
        return metrics

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Held-out loss, perplexity and token accuracy."""

        def progress() -> None:
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

        collected: list[SampleSums] = []
        device = str(self.args.device)

        def attempt(rows: int) -> EvalMetrics:
            collected.clear()
            self.args.per_device_eval_batch_size = rows  # what memory allows stays for the next one
            batches = self.get_eval_dataloader()
            with precision(device, bf16=self.conf.bf16, fp16=self.conf.fp16), dequantized(self.model, anew=False):
                return evaluate(
                    self.model,
                    batches,
                    gather=batches.batch_sampler.gather,
                    on_batch=progress,
                    on_rows=collected.append,
                    side=self.datasets.eval,
                )

        try:
            metrics = in_smaller_batches(self.args.per_device_eval_batch_size, attempt)
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self.state.global_step}: {error}") from None
        if self.datasets.eval is not None:
            self.eval_losses = conversation_losses(self.datasets.eval, collected)
        num_samples = len(dataloader.dataset)
        return EvalLoopOutput(None, None, metrics.as_dict(f"{metric_key_prefix}_"), num_samples)

    def train(self, resume_from_checkpoint: Any = None, **arguments: Any) -> Any:
        """As ever; nobody asks for gradients that the engine does not leave there."""
        if self.engine is None:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)
        # The engine's gradient is zeroed by its optimizer; the model's parameters have none, and to ask a thousand of them
        # at every step takes milliseconds.
        self.model.zero_grad = lambda set_to_none=True: None
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)
        finally:
            del self.model.zero_grad

    def forget_step(self) -> None:
        """And of what was fetched for the next."""
        super().forget_step()
        self._sums.zero_()
        self._losses.clear()
        self._ahead = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        size, several = self.args.train_batch_size, self.args.world_size > 1
        order: Any
        if self.datasets.batching is Batching.length_grouped:
            together = size * self.args.gradient_accumulation_steps * self.args.world_size
            lengths = list(self.datasets.train.samples.rows["length"])
            order = SeededLengthGroupedSampler(together, lengths, self.args.seed)
        elif several:  # what accelerate makes of transformers' own where nothing is around that
            order = SeedableRandomSampler(self.train_dataset, data_seed=self.args.data_seed)
        else:
            order = super()._get_train_sampler(train_dataset)
        return EvenOrder(order, size) if several else order
