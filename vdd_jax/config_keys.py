"""Every configuration key, once: its default, what it means, what it may be.

Noise levels are ratios σ/α in units of the scaled action (see `vdd_jax.core.schedules`), so that
1 is about the spread of the data.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from vdd_jax.core import mixture, noise_density, objectives, preconditioning, samplers
from vdd_jax.formats import FORMATS
from vdd_jax.types import HISTORIES


class Key(NamedTuple):
    default: Any
    meaning: str
    allowed: Callable[[Any], bool] | tuple = lambda value: True
    expected: str = ""  # what `allowed` asks for, in words


def _at_least(low):
    return {"allowed": lambda v: v >= low, "expected": f"at least {low}"}


def _one_of(*values):
    return {"allowed": values, "expected": f"one of {', '.join(map(repr, values))}"}


_POSITIVE = {"allowed": lambda v: v > 0, "expected": "greater than 0"}
_FRACTION = {"allowed": lambda v: 0 <= v <= 1, "expected": "between 0 and 1"}
_BACKBONE = _one_of("mlp", "residual_mlp")
_ACTIVATION = _one_of("gelu", "mish", "relu", "silu", "tanh")
_NAMES = {"allowed": lambda v: all(isinstance(name, str) and name for name in v),
          "expected": "names, e.g. ('robot0_eef_pos', 'object')"}
_SHARE = {"allowed": lambda v: 0 <= v < 1, "expected": "in [0, 1)"}

# tasks whose official simulator can be driven
OFFICIAL = ("avoiding", "pushing", "aligning", "sorting_2", "sorting_4", "sorting_6",
            "sorting_image", "sorting_2_image", "stacking", "stacking_image", "block_push")
WITH_IMAGES = ("sorting_image", "sorting_2_image", "stacking_image")
STUDENTS = ("distill", "from_scratch", "consistency")  # stages that make one

KEYS: dict[str, Key] = {
    "seed": Key(0, "root of all randomness", **_at_least(0)),
    "stages": Key(
        ("distill", "evaluate"), "what to run, in order",
        lambda v: len(v) > 0 and set(v) <= {"train_teacher", *STUDENTS, "evaluate"},
        "a non-empty subset of 'train_teacher', 'distill', 'from_scratch', 'consistency', "
        "'evaluate'",
    ),
    "precision": Key(
        "float32", "of products: 'float32'; 'tf32', products of float32 in TF32 on an accelerator; "
        "'bfloat16', layers compute in bfloat16, while parameters, losses, factors and all that is "
        "done with a mixture stay float32: faster on accelerators and on CPUs with matrix units "
        "for it (AMX)", **_one_of("float32", "tf32", "bfloat16"),
    ),
    # ---- the task
    "task.name": Key("toy", "which task", **_one_of(
        "toy", "toy1d", "avoiding", "block_push", "pushing", "aligning", "sorting_2", "sorting_4",
        "sorting_6", "sorting_image", "sorting_2_image", "stacking", "stacking_image", "kitchen",
        "recorded")),
    "task.observation_dim": Key(
        0, "toy: numbers in an observation; 0: a fixed target. recorded: the same; 0: as in the "
        "data", **_at_least(0),
    ),
    "task.action_dim": Key(
        0, "recorded: numbers in an action; 0: as in the data. With both sizes given the student "
        "acts where the data are not", **_at_least(0),
    ),
    "task.num_modes": Key(8, "toy: Gaussians in the target", **_at_least(1)),
    "task.radius": Key(2.0, "toy: radius of the ring, half width of the row", **_POSITIVE),
    "task.mode_std": Key(0.5, "toy: standard deviation of a Gaussian", **_POSITIVE),
    "task.mode_weights": Key(
        (), "toy: one weight a mode, summing to 1; empty: equal weights",
        lambda v: not v or (min(v) > 0 and abs(sum(v) - 1) < 1e-3),
        "positive numbers that sum to 1",
    ),
    "task.num_demonstrations": Key(50_000, "toy: state-action pairs drawn from the target",
                                   **_at_least(2)),
    "task.scaler": Key(
        "standard", "actions and observations, each number by itself: 'standard', z-score, to mean "
        "0 and std 1; 'bounded', the same, or narrower where values would be further than 10 from "
        "0; 'min_max', least and greatest to ±1; 'quantile', the 1st and 99th percentile "
        "to ±1; 'none', as they are. A student is scaled as its teacher is. With the last three "
        "set teacher.sigma_data to the spread of the scaled actions",
        **_one_of("standard", "bounded", "min_max", "quantile", "none"),
    ),
    "task.clip_actions": Key(
        True, "policies act within the range of the demonstrations: each number of an action "
        "beyond it is set to its nearer end. Far from every demonstration a network's actions grow "
        "without bound. Samples and densities are of the whole policy; a student is clipped as its "
        "teacher is"
    ),
    "task.angles": Key(
        False, "pushing, sorting, stacking: networks are shown the angle where an observation is "
        "tan of one, which is far out of every scale near ±90°; as published they are shown tan"
    ),
    "task.relative": Key(
        False, "planar tasks and stacking: networks are shown, besides, where boxes are as seen "
        "from where the robot is commanded to be, and a target, where an observation has one, as "
        "seen from its box"
    ),
    "task.hidden": Key(
        (), "numbers of an observation that networks are not shown, by their positions from 0. "
        "From how far a robot is behind its command, (2, 3) of pushing and sorting, a policy can "
        "tell how it went and learn to go on so (of four boxes to sort it does, of two it does "
        "better with them). A student is shown what its teacher is",
        lambda v: all(type(i) is int and i >= 0 for i in v) and len({*v}) == len(v),
        "different integers of at least 0",
    ),
    "task.exchange": Key(
        False, "sorting four and six boxes: in every batch of teachers, students and consistency "
        "models boxes of a colour are numbered anew at random: a demonstration stands for one of "
        "each order. Not 'from_scratch', whose weights of experts are kept for each window"
    ),
    "task.demonstrations": Key(
        "", "directory of the task's official recordings, or a file .npz of tasks/record.py; "
        "empty: the scripted demonstrator drives. recorded: a file or directory in one of the "
        "formats of docs/data.md"
    ),
    "task.format": Key(
        "auto", "recorded: of the demonstrations; 'auto': by what is in them",
        **_one_of("auto", *FORMATS),
    ),
    "task.observation_keys": Key(
        (), "recorded: names of the arrays that make up an observation, in this order; a name may "
        "choose columns, 'object[:7]'; empty: what the format calls the observation",
        **_NAMES,
    ),
    "task.action_keys": Key(
        (), "recorded: the same of an action; empty: what the format calls the action", **_NAMES,
    ),
    "task.subset": Key(
        "", "recorded, robomimic: name of a part of the episodes (a filter key); empty: all"
    ),
    "task.contexts": Key(
        "", "pushing, aligning, sorting, stacking: official test contexts, a pickle or its "
        "directory; empty: drawn as the benchmark does"
    ),
    "task.episodes_per_mode": Key(
        20, "of the scripted demonstrator; kitchen: a mode is the sub-task with which an episode "
        "begins", **_at_least(1),
    ),
    "task.held_out": Key(0.1, "share of the trajectories that are never trained on",
                         lambda v: 0 < v < 1, "between 0 and 1"),
    "task.window": Key(1, "T, observations that a policy sees", **_at_least(1)),
    "task.chunk": Key(1, "H, actions that a policy gives at once", **_at_least(1)),
    "task.execute_steps": Key(1, "actions of a chunk executed before the policy is asked again",
                              **_at_least(1)),
    "task.goal_length": Key(0, "G, observations of an episode given as its goal; 0: no goal",
                            **_at_least(0)),
    "task.goal": Key(
        "end", "which of them in training: 'end', the last; 'future', for each step some after it, "
        "as published. In evaluation always the last", **_one_of("end", "future"),
    ),
    "task.simulator": Key(
        "own", "'own': the one this library has; 'official': the benchmark's, where the user has "
        "installed it, see tasks/official", **_one_of("own", "official"),
    ),
    # ---- the teacher, where it is learned
    "teacher.workdir": Key(
        "", "a run whose teacher is used, with its own settings: the other keys of teacher.* are "
        "not looked at then; empty: this run's own"
    ),
    "teacher.given": Key(
        False, "the teacher is a function that is given to stages.run in Python, which sets this "
        "(docs/teachers.md); of teacher.* only sampler.* is looked at then"
    ),
    "teacher.schedule": Key(
        "ve", "noise: 've' (as BESO); 'vp_cosine', 'vp_linear' (continuous); 'ddpm_cosine', "
        "'ddpm_linear' (num_train_steps steps); 'flow' (flow matching)",
        **_one_of("ve", "vp_cosine", "vp_linear", "ddpm_cosine", "ddpm_linear", "flow"),
    ),
    "teacher.sigma_min": Key(0.05, "ve: smallest noise level", **_POSITIVE),
    "teacher.sigma_max": Key(5.0, "ve: largest noise level", **_POSITIVE),
    "teacher.num_train_steps": Key(16, "ddpm: steps of the chain", **_at_least(2)),
    "teacher.prediction": Key("karras", "of the network, see core/preconditioning.py",
                              **_one_of(*preconditioning.PREDICTIONS)),
    "teacher.sigma_data": Key(1.0, "spread of the scaled actions", **_POSITIVE),
    "teacher.noise.density": Key("log_normal", "of the noise in training",
                                 **_one_of(*noise_density.DENSITIES)),
    "teacher.noise.mean": Key(-0.7, "log_normal, log_logistic: location of log(σ/α)"),
    "teacher.noise.scale": Key(1.0, "log_normal, log_logistic: scale of log(σ/α)", **_POSITIVE),
    "teacher.backbone": Key("mlp", "kind of network", **_one_of("mlp", "transformer")),
    "teacher.window": Key(
        "last", "transformer: 'last': the newest action is diffused; 'all': all actions of the "
        "window together, as published", **_one_of("last", "all"),
    ),
    "teacher.width": Key(256, "features", **_at_least(1)),
    "teacher.depth": Key(3, "blocks", **_at_least(1)),
    "teacher.encoder_depth": Key(2, "mlp: blocks that see the observations alone", **_at_least(0)),
    "teacher.heads": Key(4, "transformer: attention heads", **_at_least(1)),
    "teacher.history": Key("differences", "how the window is shown, see models/features.py",
                           **_one_of(*HISTORIES)),
    "teacher.fourier": Key(4, "K, Fourier frequencies of each observed number; 0: none",
                           **_at_least(0)),
    "teacher.vision.channels": Key(
        (64, 128, 256, 512), "images: of the stages of the network that sees them (ResNet-18), "
        "multiples of 16", lambda v: len(v) > 0 and all(n > 0 and n % 16 == 0 for n in v),
        "multiples of 16, one for each stage",
    ),
    "teacher.vision.width": Key(64, "images: features of each camera", **_at_least(1)),
    "teacher.vision.crop": Key(0.875, "images: share of their sides that is shown, in training at "
                               "random places", lambda v: 0 < v <= 1, "above 0, at most 1"),
    "teacher.dropout": Key(0.0, "of the features", **_SHARE),
    "teacher.attention_dropout": Key(0.0, "transformer: of the attention", **_SHARE),
    "teacher.activation": Key(
        "silu", "mlp: between layers; transformer: of the layer of head_width", **_ACTIVATION),
    "teacher.gelu": Key(
        "tanh", "transformer: GELU by the error function, 'erf' (as PyTorch), or approximated, "
        "'tanh'", **_one_of("tanh", "erf"),
    ),
    "teacher.head_width": Key(
        0, "transformer: width of a hidden layer before the output; 0: none", **_at_least(0),
    ),
    "teacher.positions": Key(
        "last", "transformer: where an episode has fewer observations than the window, 'last': "
        "the newest has the last place; 'first': the first has the first place, as published",
        **_one_of("last", "first"),
    ),
    "teacher.noise_embedding": Key(
        "linear", "transformer: 'linear' in log(σ/α)/4 (as BESO); 'sinusoidal' in the step of a "
        "'ddpm_…' schedule, with an MLP (as DDPM)", **_one_of("linear", "sinusoidal"),
    ),
    "teacher.num_iterations": Key(12_000, "updates", **_at_least(1)),
    "teacher.batch_size": Key(512, "windows in an update", **_at_least(1)),
    "teacher.learning_rate": Key(2e-3, "of AdamW", **_POSITIVE),
    "teacher.state_jitter": Key(
        0.0, "standard deviation by which the windows of an update are moved, in scaled "
        "observations: against over-fitting where there are few demonstrations", **_at_least(0),
    ),
    "teacher.warmup": Key(200, "iterations in which the learning rate rises from 0",
                          **_at_least(0)),
    "teacher.decay": Key("cosine", "of the learning rate, to 0",
                         **_one_of("constant", "linear", "cosine")),
    "teacher.weight_decay": Key(1e-4, "of AdamW, on weight matrices", **_at_least(0)),
    "teacher.clip_norm": Key(1.0, "clip the gradient's global norm; 0: do not", **_at_least(0)),
    "teacher.ema": Key(0.999, "decay of the moving average that is the teacher", **_SHARE),
    "teacher.check_every": Key(1_000, "iterations between two looks at the held-out loss",
                               **_at_least(1)),
    "teacher.patience": Key(
        0, "stop after this many looks without a better held-out loss; 0: never",
        **_at_least(0),
    ),
    "teacher.select": Key(
        "last", "which parameters are the teacher: 'last' moving average; 'raw' last parameters; "
        "'held_out_loss': the moving average of least held-out loss",
        **_one_of("last", "raw", "held_out_loss"),
    ),
    "teacher.sampler.kind": Key("euler_ancestral", "see core/samplers.py",
                                **_one_of(*samplers.SAMPLERS)),
    "teacher.sampler.num_steps": Key(8, "network calls for an action (heun: almost twice)",
                                     **_at_least(1)),
    "teacher.sampler.spacing": Key("karras", "of the noise levels",
                                   **_one_of("karras", "log", "time")),
    "teacher.sampler.clip": Key(0.0, "bound on the denoised action, scaled; 0: none",
                                **_at_least(0)),
    # ---- the student
    "student.num_experts": Key(8, "Z, components of the mixture", **_at_least(1)),
    "student.covariance": Key("full", "of an expert", **_one_of("full", "diagonal")),
    "student.independent": Key(False, "every expert has a trunk of its own, parameters stacked"),
    "student.trunk": Key("mlp", "kind of trunk; 'transformer' over [goal, observations]",
                         **_one_of("mlp", "residual_mlp", "transformer")),
    "student.trunk_width": Key(64, "features of the trunk", **_at_least(1)),
    "student.trunk_depth": Key(2, "layers or residual blocks; 0: no trunk", **_at_least(0)),
    "student.head": Key("mlp", "kind of expert head", **_BACKBONE),
    "student.head_width": Key(64, "width of an expert's head", **_at_least(1)),
    "student.head_depth": Key(1, "layers or residual blocks of a head", **_at_least(0)),
    "student.activation": Key("mish", "between layers", **_ACTIVATION),
    "student.history": Key("differences", "how the window is shown, see models/features.py",
                           **_one_of(*HISTORIES)),
    "student.fourier": Key(4, "K, Fourier frequencies of each observed number of a window",
                           **_at_least(0)),
    "student.heads": Key(4, "transformer trunk: attention heads", **_at_least(1)),
    "student.dropout": Key(0.0, "transformer trunk: of the features", **_SHARE),
    "student.attention_dropout": Key(0.0, "transformer trunk: of the attention", **_SHARE),
    "student.gating": Key("learned", "q(z|s)", **_one_of("uniform", "learned")),
    "student.gating_width": Key(64, "width of the gating's MLP", **_at_least(1)),
    "student.gating_depth": Key(2, "layers of the gating's MLP", **_at_least(0)),
    "student.init_spread": Key(1.0, "expert means start uniform in ± this (scaled action)",
                               **_at_least(0)),
    "student.init_std": Key(1.0, "standard deviation of an expert at the start", **_POSITIVE),
    "student.std_floor": Key(
        1e-4, "least standard deviation of an expert in any direction (eigenvalue floor)",
        **_at_least(0),
    ),
    # ---- distillation
    "distill.num_iterations": Key(8_000, "expert and gating updates", **_at_least(1)),
    "distill.batch_size": Key(64, "B, states in an update", **_at_least(1)),
    "distill.samples_per_state": Key(4, "V, actions drawn from each expert at each state",
                                     **_at_least(1)),
    "distill.window": Key(
        "last", "which actions of a window: 'last': the newest; 'all': each, both after the "
        "demonstrated ones before it; 'joint': all together, each after the student's own, as "
        "published ('all', 'joint': transformers; teacher.window = 'all')",
        **_one_of("last", "all", "joint"),
    ),
    "distill.trunk_from_teacher": Key(
        False, "the student's trunk starts as what encodes the observations in the teacher (both "
        "residual MLPs of the same sizes)",
    ),
    "distill.warm_start": Key(
        0.0, "fraction of the iterations, from the first, in which the diffused student is fitted "
        "by likelihood to actions of the teacher before its bounds are minimised", **_FRACTION,
    ),
    "distill.warm_batch_size": Key(0, "B in the warm start, which costs less; 0: batch_size",
                                   **_at_least(0)),
    "distill.actions": Key(
        "demonstrations", "what gating and warm start learn from: 'demonstrations', or samples of "
        "the 'teacher' at the demonstrated states (learned teachers)",
        **_one_of("demonstrations", "teacher"),
    ),
    "distill.teacher_actions": Key(
        200_000, "actions = 'teacher': how many in all, K at each state, or one at each of so many "
        "states where there are more",
        **_at_least(1),
    ),
    "distill.actions_steps": Key(
        0, "actions = 'teacher': steps of the teacher's sampler behind each of them: more are "
        "nearer to its law; 0: as many as it acts with", **_at_least(0),
    ),
    "distill.state_jitter": Key(
        0.0, "actions = 'teacher': standard deviation by which all but the first of the K copies "
        "of a state are moved before the teacher is asked, in scaled observations: the student "
        "learns what the teacher does beside the demonstrations too", **_at_least(0),
    ),
    "distill.visits": Key(
        (), "actions = 'teacher': fractions of the iterations after which the student drives "
        "episodes in the task's simulator; from then on it learns what the teacher does at the "
        "states it came to, too (DAgger)", lambda v: all(0 < part < 1 for part in v),
        "numbers in (0, 1)",
    ),
    "distill.visited_episodes": Key(300, "episodes of each visit", **_at_least(1)),
    "distill.visited_share": Key(
        0.5, "of the teacher's actions at states of the visits so far", lambda v: 0 < v < 1,
        "in (0, 1)",
    ),
    "distill.likelihood_weight": Key(
        0.0, "weight of −log q_σ of the teacher's actions beside the experts' bounds: the forward "
        "KL, which forgets no mode, beside the reverse one", **_at_least(0),
    ),
    "distill.weighting": Key(
        "kl", "of noise levels: 'kl', every KL(q_σ‖π_σ) counts alike; 'denoiser', times (σ/α)², "
        "so that gradients are differences of denoised actions", **_one_of("kl", "denoiser"),
    ),
    "distill.bound": Key("diffused", "where the teacher is asked, see core/objectives.py",
                         **_one_of(*objectives.BOUNDS)),
    "distill.entropy": Key("path", "estimator of an expert's entropy, see core/objectives.py",
                           **_one_of(*objectives.ENTROPIES)),
    "distill.expert_steps": Key(1, "expert updates in an iteration", **_at_least(1)),
    "distill.gating_steps": Key(1, "gating updates in an iteration", **_at_least(0)),
    "distill.gating_update": Key(
        "after", "'after': the gating's updates follow the experts', each with a pass of the "
        "student of its own, as published; 'together': one update in the pass of the experts' last "
        "one, which is cheaper", **_one_of("after", "together"),
    ),
    "distill.weight_by_gating": Key(False, "weight an expert's bound by q(z|s)"),
    "distill.gating_start": Key(0.1, "fraction of the iterations after which the gating learns",
                                **_FRACTION),
    "distill.gating_full": Key(
        0.4, "fraction of the iterations after which the gating's target is the responsibilities "
        "alone; from gating_start on, their share rises and that of uniform weights falls",
        **_FRACTION,
    ),
    "distill.gating_diffused": Key(
        True, "the gating's responsibilities are those of the diffused student at noised actions"
    ),
    "distill.reallocations": Key(
        8, "times at which one redundant expert may be moved to an uncovered mode, or to halve "
        "an expert stretched over several (vdd_jax/reallocate.py); 0: never", **_at_least(0),
    ),
    # .3 to .65 in eight: multiples of 5 %, so that dispatches keep one length and one program
    "distill.reallocate_from": Key(0.3, "fraction of the iterations at the first", **_FRACTION),
    "distill.reallocate_until": Key(0.65, "fraction of the iterations at the last", **_FRACTION),
    "distill.learning_rate": Key(2e-3, "of the experts (Adam)", **_POSITIVE),
    "distill.gating_learning_rate": Key(2e-3, "of the gating (Adam)", **_POSITIVE),
    "distill.schedule": Key("cosine", "of both learning rates, each over its own updates, to 0",
                            **_one_of("constant", "linear", "cosine")),
    "distill.clip_norm": Key(0.0, "clip the gradient's global norm; 0: do not", **_at_least(0)),
    "distill.noise.kind": Key(
        "annealed", "noise level of an update: 'fixed' at high; 'uniform' in [low, high] for "
        "each state; 'discrete' uniform over `steps`; 'annealed' from high to low",
        **_one_of("fixed", "uniform", "discrete", "annealed"),
    ),
    "distill.noise.high": Key(2.0, "largest noise level, σ/α", **_POSITIVE),
    "distill.noise.low": Key(0.005, "smallest noise level, σ/α", **_POSITIVE),
    "distill.noise.steps": Key(
        (), "discrete: times of the teacher's schedule",
        lambda v: all(math.isfinite(t) and t >= 0 for t in v), "numbers of at least 0",
    ),
    "distill.noise.anneal_shape": Key("geometric", "path from high to low",
                                      **_one_of("linear", "geometric")),
    "distill.noise.anneal_end": Key(
        0.7, "fraction of the iterations after which the level stays low",
        lambda v: 0 < v <= 1, "in (0, 1]",
    ),
    "distill.noise.anneal_broad": Key(
        0.5, "annealed: share of the states whose level is log-uniform between the path and "
        "high: coarse noise sees the modes and weights that fine noise cannot", **_FRACTION,
    ),
    # ---- the student without a teacher, a baseline
    "from_scratch.method": Key(
        "em", "'em': expectation-maximisation; 'imc': information-maximising curriculum; "
        "'bc_gmm': likelihood by gradient; see baselines/from_scratch.py",
        **_one_of("bc_gmm", "em", "imc"),
    ),
    "from_scratch.num_iterations": Key(8_000, "updates", **_at_least(1)),
    "from_scratch.batch_size": Key(512, "pairs in an update", **_at_least(1)),
    "from_scratch.learning_rate": Key(2e-3, "of Adam, by a cosine to 0", **_POSITIVE),
    "from_scratch.clip_norm": Key(1.0, "clip the gradient's global norm; 0: do not",
                                  **_at_least(0)),
    "from_scratch.e_step_every": Key(
        100, "em, imc: updates from one E-step, over all pairs, to the next", **_at_least(1),
    ),
    "from_scratch.pacing": Key(
        2.0, "imc: η; the smaller, the fewer pairs an expert keeps", **_POSITIVE,
    ),
    # ---- consistency models, a baseline
    "consistency.method": Key(
        "cd", "'cd': consistency distillation; 'ctm': consistency trajectory model; see "
        "baselines/consistency.py. The network is the teacher's, told its task by teacher.*",
        **_one_of("cd", "ctm"),
    ),
    "consistency.num_iterations": Key(8_000, "updates", **_at_least(1)),
    "consistency.batch_size": Key(512, "states in an update", **_at_least(1)),
    "consistency.learning_rate": Key(1e-3, "of Adam, by a cosine to 0", **_POSITIVE),
    "consistency.clip_norm": Key(1.0, "clip the gradient's global norm; 0: do not",
                                 **_at_least(0)),
    "consistency.num_scales": Key(18, "N, steps of the teacher's ODE", **_at_least(2)),
    "consistency.teacher_steps": Key(
        1, "most steps that the teacher goes in an update, before the network says the rest: 1 as "
        "published for cd; with more, errors of the network add up less often", **_at_least(1),
    ),
    "consistency.target_ema": Key(0.95, "decay of the moving average that says what a jump should "
                                  "find", **_SHARE),
    "consistency.ema": Key(0.999, "decay of the moving average that is the policy", **_SHARE),
    "consistency.denoising_weight": Key(1.0, "ctm: of the denoising loss beside that of jumps",
                                        **_at_least(0)),
    "consistency.gamma": Key(
        0.0, "ctm: share of the noise of a step that is put back anew, with several network calls "
        "an action; 0: none, 1: all, as consistency models do", **_FRACTION,
    ),
    "consistency.actions": Key(
        "demonstrations", "what is noised: 'demonstrations', or samples of the 'teacher' at the "
        "demonstrated states (learned teachers)", **_one_of("demonstrations", "teacher"),
    ),
    "consistency.teacher_actions": Key(200_000, "as distill.teacher_actions", **_at_least(1)),
    "consistency.actions_steps": Key(0, "as distill.actions_steps", **_at_least(0)),
    "consistency.state_jitter": Key(0.0, "as distill.state_jitter", **_at_least(0)),
    # ---- acting
    "policy.acting": Key(
        "sampled_mean", "how the student acts where nothing else is asked, and what a report puts "
        "first: by the mean of an expert drawn from the gating, as published; by a 'sample' of the "
        "mixture; by the mean of the likeliest expert", **_one_of(*mixture.ACTING),
    ),
    "policy.min_weight": Key(
        0.0, "experts whose gating weight is below this are not drawn when the policy acts "
        "(ε-sampling); its density keeps them", lambda v: 0 <= v < 1, "in [0, 1)",
    ),
    # ---- evaluation
    "evaluate.num_samples": Key(20_000, "samples behind each KL", **_at_least(1)),
    "evaluate.num_observations": Key(64, "held-out observations they are spread over",
                                     **_at_least(1)),
    "evaluate.teacher_steps": Key(
        (1,), "steps of the sampler with which the teacher is judged beside its own number",
        lambda v: all(isinstance(n, int) and n > 0 for n in v), "integers of at least 1",
    ),
    "evaluate.student_steps": Key(
        (1, 2, 4), "consistency: network calls for an action with which it is judged; the first "
        "is put first", lambda v: len(v) > 0 and all(isinstance(n, int) and n > 0 for n in v),
        "integers of at least 1",
    ),
    "evaluate.num_episodes": Key(480, "episodes of each actor in the task's simulator",
                                 **_at_least(1)),
    # ---- how to run: nothing here changes a result
    "run.devices": Key(0, "devices that training is spread over; 0: all", **_at_least(0)),
    "run.expert_parallel": Key(
        1, "parts over which the experts are split; the batch is split over the rest of the "
        "devices", **_at_least(1),
    ),
    "run.split_data": Key(
        False, "every device holds a share of the data set, for sets that are too large for one; "
        "devices then send each other the windows of each batch",
    ),
    "run.accumulate": Key(
        1, "slices of a batch whose gradients are computed one after the other, where memory is "
        "short (dropout: with other masks)", **_at_least(1),
    ),
    "run.steps_per_dispatch": Key(
        100, "iterations in one call of the compiled program; fewer, up to a snapshot or a moved "
        "expert, go one by one", **_at_least(1)),
    "run.log_every": Key(1_000, "iterations between two lines of metrics", **_at_least(1)),
    "run.loggers": Key(
        (), "where metrics go beside metrics.jsonl: 'tensorboard', 'wandb' (an extra each)",
        lambda v: set(v) <= {"tensorboard", "wandb"} and len({*v}) == len(v),
        "of 'tensorboard' and 'wandb', each once at most",
    ),
    "run.checkpoint_every": Key(2_000, "iterations between two checkpoints", **_at_least(1)),
    "run.num_snapshots": Key(6, "mixtures kept over training for the figure; 0: none",
                             **_at_least(0)),
    "run.figures": Key(True, "draw figures (needs the plot extra)"),
}
