"""The sections of a recipe, as frozen dataclasses.

A value of None (in TOML, a missing key) is resolved from the data; the `recipe.toml` of a run has the resolved value.
"""

from dataclasses import dataclass
from typing import Any

from tellapart.errors import RecipeError
from tellapart.recipe.fields import choice, number


@dataclass(frozen=True)
class DataRecipe:
    """How the images are split, and which defects of the data are accepted.

    validation_fraction, test_fraction: of the images. on_leak: `refuse` a given split that has the same image in two
    splits, or `drop` the copies outside the test split. max_unreadable_fraction: of the images; one unreadable image is
    accepted unless it is 0. near_duplicates: `group` keeps changed copies of an image in one split, `ignore` takes them
    for different images.
    """

    validation_fraction: float = number(0.01, 0.8, 0.15)
    test_fraction: float = number(0.01, 0.8, 0.15)
    on_leak: str = choice("refuse", "refuse", "drop")
    max_unreadable_fraction: float = number(0.0, 1.0, 0.01)
    near_duplicates: str = choice("group", "group", "ignore")


@dataclass(frozen=True)
class PreprocessRecipe:
    """How images are resized to the network's input; see `tellapart.preprocess.torch_preprocess`.

    resize: `squash` to a square, `crop` the center, or `pad` to a square. size: side in pixels. channels: 1 or 3.
    """

    resize: str | None = choice(None, "squash", "crop", "pad")
    size: int | None = number(8, 1024, None)
    channels: int | None = number(1, 3, None)


@dataclass(frozen=True)
class AugmentRecipe:
    """Data augmentation of training images; 0 disables a transform.

    hflip: horizontal flip with probability 1/2. alternating_hflip: flip in every other epoch instead; requires `hflip`.
    rotation: maximum angle in degrees. zoom: 0.1 scales by 1/1.1 to 1.1. translate: maximum shift, as a fraction of the
    side. shear: maximum tangent of the angle. brightness, contrast: maximum relative change. policy: further operations
    drawn from a list; `randaugment` applies num_ops of them at magnitude, from 0 to 1 (9 of 30 in the paper is 0.3).
    random_erasing: probability of erasing a box. mixup, cutmix: alpha of the Beta distribution of the mixing ratio;
    with both, one of them is drawn for each pair of images.
    """

    hflip: bool | None = None
    rotation: float | None = number(0, 180, None)
    zoom: float | None = number(0, 2, None)
    translate: float | None = number(0, 0.5, None)
    shear: float | None = number(0, 1, None)
    brightness: float | None = number(0, 1, None)
    contrast: float | None = number(0, 1, None)
    alternating_hflip: bool = False
    policy: str = choice("none", "none", "randaugment", "trivialaugment")
    num_ops: int = number(1, 14, 2)
    magnitude: float = number(0, 1, 0.3)
    random_erasing: float = number(0, 1, 0.0)
    mixup: float = number(0, 100, 0.0)
    cutmix: float = number(0, 100, 0.0)


@dataclass(frozen=True)
class ModelRecipe:
    """The network.

    name: a network that `tellapart models` lists, timm:NAME, or `sequential` with `layers`, a list of tables.
    pretrained: start from published weights. weights: start from the weights in this file. head: widths of the dense
    layers before the last one, each followed by ReLU and dropout (head_dropout).
    """

    name: str | None = None
    layers: tuple[dict[str, Any], ...] | None = None
    pretrained: bool | None = None
    weights: str | None = None
    head: tuple[int, ...] = number(1, 8192, ())
    head_dropout: float = number(0, 0.99, 0.5)


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer.

    learning_rate: peak of the schedule. ema_decay: of the exponential moving average of the weights; 0 disables it.
    """

    name: str | None = choice(None, "adam", "adamw", "sgd", "muon")
    learning_rate: float | None = number(1e-7, 10, None)
    weight_decay: float | None = number(0, 1, None)
    batch_size: int | None = number(2, 4096, None)
    ema_decay: float = number(0, 0.99999, 0.99)


@dataclass(frozen=True)
class ScheduleRecipe:
    """The duration of training, and the learning rate schedule.

    preset: how long to train, in the settings that are open: `quick`, in fine-tuning, fits a linear probe only;
    `balanced`; or `best`, which takes several times as long. epochs: 0 is a linear probe only. max_time: seconds of the
    run, from the audit to the report, instead of `epochs`. monitor: the validation metric that selects the best epoch.
    patience: epochs without improvement before the learning rate falls to zero and training ends; 0 disables early
    stopping. By default it depends on `epochs`, and is 0 where `epochs` or `max_time` is set. initial_size: side of the
    images at the start, which grows to `preprocess.size` (progressive resizing).
    """

    preset: str = choice("balanced", "quick", "balanced", "best")
    name: str = choice("one_cycle", "one_cycle", "cosine")
    epochs: int | None = number(0, 100_000, None)
    max_time: float | None = number(1, 10_000_000, None)
    monitor: str = choice("accuracy", "accuracy", "macro_f1", "log_loss")
    patience: int | None = number(0, 10_000, None)
    initial_size: int | None = number(8, 1024, None)


@dataclass(frozen=True)
class LossRecipe:
    """The loss, and class imbalance; see `tellapart.training.losses`.

    balanced_sampling: sample each class equally often. class_weight: `balanced` weights the loss by the inverse class
    frequency. logit_adjustment: with either of them, still predict probabilities for the class frequencies of the data.

    Raises `RecipeError` for both corrections together, which would favor rare classes twice.
    """

    name: str = choice("cross_entropy", "cross_entropy", "focal")
    focal_gamma: float = number(0, 10, 2.0)
    label_smoothing: float = number(0, 0.9, 0.1)
    balanced_sampling: bool = False
    class_weight: str = choice("none", "none", "balanced")
    logit_adjustment: bool = True

    def __post_init__(self) -> None:
        if self.balanced_sampling and self.class_weight == "balanced":
            raise RecipeError(
                "loss.balanced_sampling and loss.class_weight='balanced' both correct class imbalance: set only one."
            )

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have the same weight in training."""
        return self.balanced_sampling or self.class_weight == "balanced"


@dataclass(frozen=True)
class DistillationRecipe:
    """Knowledge distillation from a trained classifier.

    teacher: a classifier file or run directory. alpha: weight of the distillation loss. temperature: divides the logits
    of teacher and student.
    """

    teacher: str | None = None
    alpha: float = number(0, 1, 0.5)
    temperature: float = number(0.1, 100, 2.0)


@dataclass(frozen=True)
class FineTuningRecipe:
    """Fine-tuning of pretrained weights.

    freeze_backbone: train only the head. backbone_lr_mult: learning rate of the backbone relative to the head.
    layer_decay: learning rate of each stage relative to the next stage. linear_probe_epochs: epochs of training the
    head on frozen features before fine-tuning, on each image and linear_probe_views augmented copies of it.
    """

    freeze_backbone: bool = False
    backbone_lr_mult: float = number(0, 1, 0.1)
    layer_decay: float = number(0, 1, 1.0)
    linear_probe_epochs: int = number(0, 10_000, 30)
    linear_probe_views: int | None = number(0, 1000, None)


@dataclass(frozen=True)
class CheckpointRecipe:
    """The interval between checkpoints, in minutes or in steps, whichever comes first."""

    minutes: float = number(0, 10_000, 1.0)
    steps: int | None = number(1, 10_000_000, None)


@dataclass(frozen=True)
class ExecutionRecipe:
    """How training is computed.

    precision: `auto` is bfloat16 where the hardware supports it. micro_batches: split each batch to save memory
    (gradient accumulation). activation_checkpointing: save memory in very deep networks, at the cost of time.
    sync_batch_norm: compute BatchNorm statistics over all ranks. channels_last: memory layout of images and filters.
    threads: number of CPU threads; all processors by default. compile_mode: of `torch.compile`. autotune: on a GPU,
    time the settings that are open, and use the fastest. deterministic: reproducible to the bit on a GPU, but slower;
    training on a CPU always is.
    """

    precision: str = choice("auto", "auto", "float32", "bfloat16")
    channels_last: bool | None = None
    threads: int | None = number(1, 1024, None)
    compile_mode: str | None = choice(None, "none", "default", "reduce-overhead")
    micro_batches: int = number(1, 1024, 1)
    activation_checkpointing: bool = False
    sync_batch_norm: bool = False
    autotune: bool = True
    deterministic: bool = False


@dataclass(frozen=True)
class EvaluationRecipe:
    """Prediction sets, out-of-distribution (OOD) detection, and the images to check exports with.

    coverage: nominal share of prediction sets that contain the true class. class_conditional: guarantee the coverage
    for each class, not only on average. ood_false_positive_rate: share of in-distribution images that are flagged as
    out of distribution. golden_images: test images that are stored in the classifier file, reduced to 320 pixels, so
    that it can be exported and served where the images of the run are not.
    """

    coverage: float = number(0.5, 0.9999, 0.95)
    class_conditional: bool = False
    ood_false_positive_rate: float = number(0, 0.5, 0.01)
    golden_images: int = number(0, 64, 8)


SECTIONS: dict[str, type] = {
    "data": DataRecipe,
    "preprocess": PreprocessRecipe,
    "augment": AugmentRecipe,
    "model": ModelRecipe,
    "optimizer": OptimizerRecipe,
    "schedule": ScheduleRecipe,
    "loss": LossRecipe,
    "distillation": DistillationRecipe,
    "fine_tuning": FineTuningRecipe,
    "checkpoint": CheckpointRecipe,
    "execution": ExecutionRecipe,
    "evaluation": EvaluationRecipe,
}
