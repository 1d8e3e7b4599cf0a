"""The settings of a run, typed and validated; `tcc_fast.config` reads them.

Defaults are the literal method: the paper's equations, and where the paper's equations give no number, the
first author's public prototype. Each setting of the method says where its default comes from (paper, prototype,
MiCE, ours). What is not in the equations is marked "addition" and is off by default. A file in ``configs/`` holds only
its departures from these defaults, each with its reason.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tcc_fast.nearest import did_you_mean

BACKBONES = ("resnet_small", "resnet18", "resnet34", "resnet50")
"""Those that have a name."""


def _on_off(value: Any) -> Any:
    """The word on or off, where YAML has read it as a boolean; the command line passes the word."""
    words = {True: "on", False: "off", "true": "on", "false": "off"}
    return words.get(value, value) if isinstance(value, bool | str) else value


def _as_typed(value: Any) -> Any:
    """A name as it was typed, where YAML has read it as a number or a date."""
    return str(value) if isinstance(value, int | date) and not isinstance(value, bool) else value


def _named_or_own(value: str) -> str:
    module, sign, function = value.partition(":")
    if module.endswith(".py"):
        name = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"{value!r} names a file: write the module, {name}:{function or 'FUNCTION'}")
    if value in BACKBONES or (sign and function.isidentifier() and all(map(str.isidentifier, module.split(".")))):
        return value
    hint = did_you_mean(value, BACKBONES)
    raise ValueError(f"{value!r} is none of {', '.join(BACKBONES)}, and no MODULE:FUNCTION that makes one{hint}")


CompileChoice = Annotated[Literal["auto", "on", "off", "graphs"], BeforeValidator(_on_off)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, about: ValidationInfo) -> Any:
        kind = cls.model_fields[about.field_name or ""].annotation
        if isinstance(value, bool) and kind in (int, float, int | None, float | None):
            raise ValueError(f"must be a number, got {str(value).lower()}")
        return value


class DataConfig(Section):
    """Where images come from and at what size they are trained on."""

    pipeline: Literal["auto", "resident", "ffcv", "dali", "torch"] = "auto"
    """How views are made: `resident` (decoded once into device memory), `ffcv` and `dali` (decoded anew in every
    epoch, once for both views), `torch` (DataLoader, the reference)."""
    split: str = "all"
    """Which of the data set's splits is trained on. `all`: the field's custom, for training and evaluation alike."""
    image_size: int = Field(96, ge=4, le=1024)
    """Side of the square views, in pixels."""
    workers: int | None = Field(None, ge=0)
    """Threads that make views on the CPU, processes for `torch` (0: none); empty: one per core, at most 16."""
    ffcv_cache: Literal["os", "process"] = "os"
    """How `ffcv` reads: through the system's file cache, or all into memory of its own (files on a network)."""


class AugmentConfig(Section):
    """The two-view recipe, in torchvision's meaning of each word and in this order. The order is ours."""

    rotation: float = Field(0.0, ge=0, le=180)
    """RandomAffine: rotation in degrees, drawn from [-x, x]. Addition."""
    shear: float = Field(0.0, ge=0, le=80)
    """RandomAffine: shear along x in degrees, drawn from [-x, x]. Addition."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """RandomAffine: scale factor, drawn from this range; below 1 shows a black border. Addition."""
    crop_area: tuple[float, float] = (0.2, 1.0)
    """RandomResizedCrop: fraction of the image's area. Origin: prototype."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """RandomResizedCrop: aspect ratio (width / height), log-uniform. Origin: prototype."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip. 0 for anything that has a reading direction. Origin: prototype."""
    jitter: Fraction = 1.0
    """Probability of the colour jitter (its four parts in random order). Origin: prototype."""
    brightness: float = Field(0.4, ge=0, le=1)
    """ColorJitter: factor from [1 - x, 1 + x]. Origin: prototype."""
    contrast: float = Field(0.4, ge=0, le=1)
    """ColorJitter: factor from [1 - x, 1 + x], about the image's own mean grey. Origin: prototype."""
    saturation: float = Field(0.4, ge=0, le=1)
    """ColorJitter: factor from [1 - x, 1 + x]. Origin: prototype."""
    hue: float = Field(0.4, ge=0, le=0.5)
    """ColorJitter: shift from [-x, x] turns. Origin: prototype."""
    grey: Fraction = 0.2
    """Probability of RandomGrayscale. Origin: prototype."""
    blur: Fraction = 0.0
    """Probability of GaussianBlur as CC has it: sigma from [0.1, 2] px, kernel about a tenth of the image. Origin:
    prototype, which has none."""

    @property
    def has_affine(self) -> bool:
        """Whether images are rotated, sheared or zoomed at all."""
        return bool(self.rotation or self.shear or self.zoom != (1.0, 1.0))

    @model_validator(mode="after")
    def _ranges(self) -> AugmentConfig:
        for name in ("zoom", "crop_area", "crop_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a range 0 < low <= high, got [{low:g}, {high:g}]")
        if self.crop_area[1] > 1:
            raise ValueError("crop_area must not exceed 1 (use zoom below 1 to show more than the image)")
        return self


class ModelConfig(Section):
    """The network: encoder, prototypes, and the heads of equations (3) and (7)."""

    num_clusters: int | None = Field(None, ge=2)
    """K. Empty: the number of classes in the data set, when it has labels. Origin: paper."""
    backbone: Annotated[str, AfterValidator(_named_or_own)] = "resnet34"
    """Encoder: `resnet_small` (three stages of one block, for CPUs), `resnet18`, `resnet34`, `resnet50`, or your own,
    MODULE:FUNCTION, which is called with `feature_dim` and returns a module. Origin: prototype."""
    width: int = Field(16, ge=1)
    """Of `resnet_small`: channels of its first stage; the others have 2 and 4 times as many. Origin: ours."""
    stem: Literal["3x3", "7x7"] = "3x3"
    """First layer: 3×3 at full resolution, for small images, or 7×7 with stride 2 and pooling. Origin: prototype."""
    feature_dim: int = Field(128, ge=2)
    """d, the dimension of f. Origin: prototype, MiCE."""
    normalize_features: bool = True
    """Divide f by its L2 norm, in (3), (4) and (7). The equations do not say; origin: prototype, MiCE."""
    normalize_prototypes: bool = True
    """Use μ divided by its L2 norm in (3). The equations do not say; origin: prototype, MiCE."""
    prototype_init: Literal["simplex", "orthogonal", "normal"] = "simplex"
    """Initial μ: maximally separated centres, orthonormal rows, or normal draws. Origin: prototype, MiCE."""
    condition_on_cluster: bool = True
    """e = f + NN(c) as in (7), the paper; false: e = f."""
    feature_batch_norm: bool = False
    """Addition: batch norm without scale and shift on f, before its L2 norm. Without it f starts almost constant."""
    sync_batch_norm: bool = True
    """With several processes: batch norm over the global batch, so that their number changes nothing. False: each
    process normalises by its own part, which is faster, and another method. Origin: ours."""
    assignment_temperature: Positive = 1.0
    """Addition: π = softmax(μᵀf / this). 1 is equation (3); with unit f and μ it cannot leave near-uniform π."""

    @property
    def has_own_backbone(self) -> bool:
        """Whether the encoder is made by a function of the user's."""
        return ":" in self.backbone

    @model_validator(mode="after")
    def _width_of_the_small_one(self) -> ModelConfig:
        if self.width != 16 and self.backbone != "resnet_small":
            raise ValueError(f"width is a setting of resnet_small, {self.backbone} has its own: set model.width=16")
        return self


class LossConfig(Section):
    """Equations (5) to (9)."""

    alpha: Fraction = 0.5
    """α of (9): weight of the cluster-level loss, 1 - α that of the instance-level bound. Ours: nothing public says."""
    alpha_ramp_steps: int = Field(0, ge=0)
    """Addition: α grows linearly from 0 over this many steps (from the start of the prototypes on, if any). 0: off."""
    temperature: Positive = 1.0
    """τ of (7), and of (5) unless `temperature_cluster` is set. Origin: prototype, MiCE."""
    temperature_cluster: Positive | None = None
    """A τ of its own for (5); empty: the same, as in the paper."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight of KL(π || uniform) in (8). 1 is the literal equation; less is an addition."""
    gumbel: bool = True
    """Draw c by Gumbel-softmax, as the paper; false: c = π."""
    gumbel_temperature: Positive = 0.3
    """λ. Origin: prototype."""
    swap_weight: float = Field(0.0, ge=0)
    """Addition: weight of the cross-entropy between π of one view and the twin's assignment of the other view, made
    balanced over the batch (SwAV, Caron et al. 2020). It assumes clusters of about equal size. 0: off."""
    swap_temperature: Positive = 0.05
    """Of that balanced assignment, as `assignment_temperature` is of π. Origin: SwAV."""
    swap_neighbours: int = Field(1, ge=1)
    """The twin's assignment there is the mean over so many nearest neighbours in the batch, the image itself among
    them: an addition. 1: the image's own."""
    cluster_track: bool = True
    """True: the paper. False removes all that needs π (equation 5, NN(c), KL): plain instance contrast, to compare
    with."""
    symmetric: bool = False
    """Addition: also contrast view 2 (online) with view 1 (momentum), and average: twice the forward work."""


class QueueConfig(Section):
    """The momentum queues P and Q. A slot that was never written is no negative."""

    cluster: bool = True
    """Use P in (5), as the paper; false, an addition: a cluster has no negatives from the past, only the other ones of
    this step."""
    cluster_multiple: int = Field(20, ge=1)
    """L / K: steps that P remembers. Origin: prototype."""
    instance_length: int = Field(16384, ge=1)
    """J, entries of Q. Origin: prototype, MiCE."""


class MomentumConfig(Section):
    """The momentum network θ̂."""

    decay: float = Field(0.999, ge=0, lt=1)
    """m of θ̂ ← m θ̂ + (1 - m) θ. Origin: prototype, MiCE."""
    warmup: bool = False
    """Addition: m_t = min(m, 1 - 1 / (t / 10 + 2)), for runs too short for a constant m."""


class StartConfig(Section):
    """Addition: a start of the prototypes from features after an instance-only warm-up. One initialisation, once."""

    method: Literal["none", "kmeans", "spectral"] = "none"
    """First train by plain instance contrast, then set μ to the means of clusters of un-augmented f: those of a
    k-means, or of normalised cuts of the graph of nearest neighbours (`spectral`). Origin: ours."""
    at: float = Field(0.4, gt=0, lt=1)
    """Length of that instance-only warm-up, as a fraction of the epochs (at least one epoch). Origin: ours."""
    restarts: int = Field(20, ge=1)
    """Attempts of the k-means, of which `spectral` too has one at its end; the one with the lowest inertia is kept.
    Origin: ours."""
    neighbours: int = Field(20, ge=2)
    """`spectral`: of an image in the graph, itself among them. Origin: ours."""


class OptimConfig(Section):
    """Optimiser and learning rate. μ, biases and batch norm are never decayed (ours)."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """The optimiser. Origin: prototype."""
    lr: Positive = 1e-3
    """Peak learning rate, for the global batch. Origin: prototype."""
    weight_decay: float = Field(0.0, ge=0)
    """Coupled (L2) for adam and sgd, decoupled for adamw. 0 is ours: none is known of the prototype."""
    sgd_momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd. Origin: MiCE."""
    schedule: Literal["constant", "cosine", "steps"] = "steps"
    """How lr falls. Origin: prototype."""
    milestones: tuple[Fraction, ...] = (0.48, 0.64, 0.8)
    """`steps`: lr × 0.1 at these fractions of the run. Origin: MiCE (480/640/800 of 1000 epochs)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of a linear warm-up of lr from 0. 0 is ours: none is known of the prototype."""


class TrainConfig(Section):
    """The run."""

    epochs: int = Field(1000, ge=1)
    """Passes over all images. Origin: MiCE on CIFAR."""
    batch_size: int = Field(384, ge=2)
    """Global batch, over all ranks. Origin: prototype."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16, fp16: autocast, fp16 with scaled gradients. `auto`: bf16 where the device computes in it, or else fp16 on
    GPUs that compute in that, or else fp32; a run that is continued or evaluated stays with what it was."""
    compile: CompileChoice = "auto"
    """torch.compile. `auto`: on for CUDA, off for the CPU, where it costs half a minute for nothing.
    `graphs`: also replay the whole step as one CUDA graph (one process), for steps so short that launching them is what
    takes the time."""
    log_every: int = Field(20, ge=1)
    """Steps between logged lines; each one waits for the device."""
    checkpoint_every: int = Field(10, ge=1)
    """Epochs between checkpoints; the last epoch always writes one."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep."""
    init: Annotated[str | None, BeforeValidator(_as_typed)] = None
    """A run or checkpoint of the same network whose weights are the first ones; empty: they are drawn. Addition."""
    tensorboard: bool = False
    """Also log to TensorBoard, through Accelerate's tracker (needs the extra `tensorboard`)."""


class Config(Section):
    """All settings of a run."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Of every random choice: initial weights, image order, augmentation, Gumbel noise, k-means."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    queue: QueueConfig = QueueConfig()
    momentum: MomentumConfig = MomentumConfig()
    start: StartConfig = StartConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @property
    def start_epoch(self) -> int:
        """First epoch with clusters: 0 without a start from features."""
        starts = self.start.method != "none" and self.loss.cluster_track
        return max(1, int(self.start.at * self.train.epochs)) if starts else 0
