"""MedTrainer: transformers' Trainer with a loss per supervised token, honest evaluation, and throughput."""

import contextlib
import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.integrations.neftune import deactivate_neftune
from transformers.trainer_callback import PrinterCallback, TrainerState
from transformers.trainer_utils import EvalLoopOutput

from medllm import ranks
from medllm.config.data import Batching
from medllm.config.trainer import Optimizer, Strategy, TrainerConf
from medllm.data.pipeline import Datasets
from medllm.data.shares import EvenOrder, WithBlank, held_out_batches
from medllm.errors import ConfigError, Fault, NonFiniteError
from medllm.models.fused.engine import FusedEngine
from medllm.models.quantization import dequantized
from medllm.run_folder import ConversationLosses
from medllm.stopping import StopRequested, stop
from medllm.training.callbacks import NonFiniteGuard
from medllm.training.checkpoint import (
    STAGING,
    checkpoints,
    clear_staging,
    commit,
    discard,
    empty_staging,
    fault,
    rotate,
    step_of,
)
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
from medllm.training.out_of_memory import StepBeginning, in_smaller_batches

# The Trainer's numbers that transformers does not keep, beside its own state in a checkpoint.
COUNTERS = "counters.json"


class Progress(NamedTuple):
    """How far training was at a training log; what is logged next is the difference to it."""

    step: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    loss_sum: float = 0.0
    train_seconds: float = 0.0


class MedTrainer(Trainer):
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
    log: adds throughput; the loss is the mean of the steps since the last log, also if a resume lies between.
    train, _save_checkpoint, _get_output_dir: keep the numbers below over a resume; stage and seal checkpoints.
    _evaluate: ends between two batches when the run is asked to stop; whoever goes on evaluates first.
    _load_rng_state: a step that begins with a checkpoint's random state may have to begin again.
    _get_train_sampler: groups by length under every version of transformers 5, resumably; gives ranks no row twice.

    Attributes:
        engine: Computes training steps; None leaves them to transformers and peft.
        guard: Stops at what is not finite; read before a checkpoint is saved, whoever asked for one.
        num_tokens: Tokens that all ranks trained on, padding left out (int64 scalar on the device).
        num_supervised_tokens: Those of them that carry a label.
        train_seconds: Time from the start to the end of optimizer steps, evaluation and checkpoints left out; the guard's
            synchronisation lies inside, so that work queued on a GPU counts. Kept by `StepTimer`.
        size: How much is computed at once, where memory decided it: `Size` by name, for checkpoints.
        began: `time.perf_counter()` at this process's first optimizer step; None before. Kept by `StepTimer`.
        step_loss: Loss of the newest optimizer batch, of all ranks, for the guard.
        step_losses: Parts of it that this rank's micro-batches had, on the device.
        loss_sum: Sum of the losses of all optimizer steps (float64 scalar on the device).
        eval_losses: Loss of each held-out conversation at the last evaluation; None before the first.
    """

    def __init__(self, *, conf: TrainerConf, datasets: Datasets, engine: FusedEngine | None = None, **arguments: Any):
        self.conf = conf
        self.engine = engine
        self.datasets = datasets
        self.control: Any
        self.optimizer: Any
        self.data_collator: Any
        several = ranks.world_size() > 1
        super().__init__(
            train_dataset=WithBlank(datasets.train.dataset) if several else datasets.train.dataset,
            eval_dataset=datasets.eval.dataset if datasets.eval else None,
            data_collator=datasets.collate,
            **arguments,
        )
        # The loss below is already divided by the optimizer batch's tokens: the Trainer must count and not divide again.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)
        self.guard = NonFiniteGuard(self)
        self.add_callback(self.guard)
        self._beginning = StepBeginning(self.args.device)
        self.add_callback(self._beginning)
        if several:
            torch.manual_seed(self.args.seed + ranks.rank())  # or all ranks would drop out the same
        if engine is not None:  # torch's wrapper would wait for gradients of the model's own parameters
            ranks.spread(engine.parameter.data)  # as that wrapper does
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.num_tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.num_supervised_tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.step_loss = torch.zeros((), device=self.args.device)
        self.step_losses: list[torch.Tensor] = []
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self._losses: list[torch.Tensor] = []
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)  # loss, tokens, supervised ones
        self.train_seconds = 0.0
        self.size: dict[str, Any] | None = None
        self.began: float | None = None
        self.eval_losses: ConversationLosses | None = None
        self._logged = Progress()
        self._asked: Any = None
        self._saved = -1  # step of this run's newest checkpoint
        self._staging: Path | None = None
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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds tokens per second since the last training log, and takes the loss from the sum that checkpoints keep."""
        if "loss" in logs:
            now, last = self._progress(self.state.global_step), self._logged
            seconds = now.train_seconds - last.train_seconds
            logs["loss"] = (now.loss_sum - last.loss_sum) / max(now.step - last.step, 1)
            if seconds > 0:
                logs["tokens_per_second"] = (now.num_tokens - last.num_tokens) / seconds
                supervised = now.num_supervised_tokens - last.num_supervised_tokens
                logs["supervised_tokens_per_second"] = supervised / seconds
            if self.began is not None:  # rates over any stretch of the run, also with what lies between steps
                logs |= {"num_tokens": now.num_tokens, "elapsed_seconds": time.perf_counter() - self.began}
            self._logged = now
        if "eval_loss" in logs:  # a run that goes on may evaluate a step again
            history, step = self.state.log_history, self.state.global_step
            history[:] = [entry for entry in history if "eval_loss" not in entry or entry["step"] != step]
        super().log(logs, start_time)

    def _progress(self, step: int) -> Progress:
        counts = (int(self.num_tokens), int(self.num_supervised_tokens))
        return Progress(step, *counts, float(self.loss_sum), self.train_seconds)

    @property
    def mean_train_loss(self) -> float:
        """Over all optimizer steps, those before a resume included; transformers' own leaves them out."""
        return float(self.loss_sum) / max(self.state.global_step, 1)

    def train(self, resume_from_checkpoint: Any = None, **arguments: Any) -> Any:
        """Trains, going on with the numbers of the checkpoint where there is one."""
        self._saved = -1
        if resume_from_checkpoint:
            self._restore(Path(resume_from_checkpoint))
        if self.engine is None:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)
        # The engine's gradient is zeroed by its optimizer; the model's parameters have none, and to ask a thousand of them
        # at every step takes milliseconds.
        self.model.zero_grad = lambda set_to_none=True: None
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)
        finally:
            del self.model.zero_grad

    @property
    def can_step_back(self) -> bool:
        """Whether the optimizer step under way has changed nothing yet that is kept over steps."""
        return self._beginning.states is not None

    def step_back(self, size: dict[str, Any]) -> Path:
        """Forgets the optimizer step under way, and saves a checkpoint of its beginning; the model is as it was given.

        Args:
            size: What goes on from there is to compute at once.
        """
        self.model.zero_grad(set_to_none=True)
        self._beginning.restore()
        self.size, self.state.train_batch_size = size, size["per_device_train_batch_size"]
        self._saved = -1  # also where the step has a checkpoint, which is of another size
        self._save_checkpoint(self.model, None)
        if self.neftune_noise_alpha is not None:
            deactivate_neftune(self.model, self.neftune_hook_handle, self.accelerator)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        self._beginning.remember()

    def _restore(self, checkpoint: Path) -> None:
        path = checkpoint / COUNTERS
        counters = json.loads(path.read_text()) if path.is_file() else {}
        self._refuse_other_engine(counters.pop("engine", "plain"), checkpoint)
        self._refuse_other_world(counters.pop("world_size", 1), checkpoint)
        counters.pop("size", None)
        logged = counters.pop("logged", None)
        self.train_seconds = counters.pop("train_seconds", 0.0)
        for name, value in counters.items():
            getattr(self, name).fill_(value)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        # A checkpoint that does not say what was logged last is taken as just logged.
        self._logged = Progress(*logged) if logged else self._progress(state.global_step)
        if checkpoint.resolve().parent == Path(self.args.output_dir).resolve():
            self._saved = state.global_step
        self.args.eval_on_start = self._evaluation_due(state)

    def _evaluation_due(self, state: TrainerState) -> bool:
        """Whether a checkpoint was saved before the evaluation of its step.

        After the last step always: losses by conversation and figures of suites are in no checkpoint.
        """
        strategy, step = self.args.eval_strategy, state.global_step
        if strategy == Strategy.no.value or self.eval_dataset is None:
            return False
        by_steps = strategy == Strategy.steps.value
        due = step % state.eval_steps == 0 if by_steps else float(state.epoch or 0).is_integer()
        evaluated = any("eval_loss" in entry and entry["step"] == step for entry in state.log_history)
        return (due and not evaluated) or step >= state.max_steps

    @property
    def _engine_name(self) -> str:
        return "plain" if self.engine is None else "fused"

    def _refuse_other_engine(self, name: str, checkpoint: Path) -> None:
        """The two keep their optimizer's state in different shapes."""
        if name != self._engine_name:
            problem = f"differs from the {name} one that wrote {checkpoint}"
            fix = f"trainer.engine={name}, or begin anew in another folder"
            raise ConfigError(Fault("trainer.engine", problem, self._engine_name, fix=fix))

    def _refuse_other_world(self, size: int, checkpoint: Path) -> None:
        """Each rank's random numbers are its own: another number of them drops out something else."""
        if size != self.args.world_size:
            problem = f"was written by {size} processes, this run has {self.args.world_size}"
            fix = f"torchrun --nproc_per_node={size} train.py ..." if size > 1 else "python train.py ..."
            raise ConfigError(Fault("trainer.resume_from_checkpoint", problem, str(checkpoint), fix=fix))

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def keep(self) -> None:
        """Saves a checkpoint of where training is, unless there is one."""
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._saved == self.state.global_step:
            return
        self.guard.read(self.args)  # a stop may have asked for this after the guard looked whether to read
        folder = Path(self.args.output_dir)
        self._staging = folder / STAGING
        try:
            if ranks.is_main():
                empty_staging(folder)
            ranks.wait()
            super()._save_checkpoint(model, trial)
            ranks.wait()  # each rank writes its random state
            if ranks.is_main():
                self._complete(folder / STAGING / f"checkpoint-{self.state.global_step}")
        except BaseException:
            if ranks.is_main():
                clear_staging(folder)  # on a full disk it takes what others need
            raise
        finally:
            self._staging = None
        ranks.wait()
        self._saved = self.state.global_step

    def _complete(self, staged: Path) -> None:
        """Adds the Trainer's own numbers, puts the checkpoint in its place, and lets old ones go."""
        names = ("num_tokens", "num_supervised_tokens", "loss_sum")
        counters = {name: getattr(self, name).item() for name in names}
        counters |= {"train_seconds": self.train_seconds, "logged": self._logged}
        counters |= {"engine": self._engine_name, "world_size": self.args.world_size}
        if self.size is not None:
            counters["size"] = {**self.size, "per_device_eval_batch_size": self.args.per_device_eval_batch_size}
        (staged / COUNTERS).write_text(json.dumps(counters))
        folder = commit(staged).parent
        for path in checkpoints(folder):  # later ones that are damaged were passed over at the resume
            if step_of(path) > self.state.global_step and fault(path):
                discard(path)
        rotate(folder, self.conf.save_total_limit)
        clear_staging(folder)

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
