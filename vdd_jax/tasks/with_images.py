"""Tasks as two cameras see them: of an observation of numbers the robot's own are left, and what
the boxes do is seen in two images, from in front of the table and from the hand.

The demonstrations are those of the task without images; what the cameras saw is drawn while they
are recorded, and kept beside the recording, `tasks/recording_file.py` says how. An image pair has
54 KiB, and training has all of them in memory (1,000 steps are 53 MiB), or, with
`config.run.split_data`, each process those that its devices hold.
"""

from functools import partial
from pathlib import Path

from vdd_jax.formats import d3il_images
from vdd_jax.frames import Stored
from vdd_jax.tasks import cameras
from vdd_jax.tasks.planar import engine, recording
from vdd_jax.tasks.recording_file import images_of, read_images, read_of_task
from vdd_jax.types import SeenTrajectory, Trajectory

IMAGES = (len(cameras.CAMERAS), cameras.SIZE, cameras.SIZE, 3)


class WithImages:
    """Used like the module of a task.

    Args:
      task: without images, of MuJoCo.
      robot: how many numbers of its observations are the robot's; they come first.
      episodes_per_context: of its `rollout`.
    """

    COMPILED = engine.COMPILED
    Episodes = engine.Episodes

    def __init__(self, name: str, task, robot: int, episodes_per_context: int):
        self.name, self._task, self._each = name, task, episodes_per_context
        self.SPEC = task.SPEC._replace(name=name, observation_dim=robot, images=IMAGES,
                                       tangents=(), alike=(), relative=())
        self.SIMULATOR = f"{task.SIMULATOR}, seen by two cameras"
        self.RULES = task.RULES._replace(observe=lambda world: task.RULES.observe(world)[:, :robot])
        self.begin, self.draw_contexts = task.begin, task.draw_contexts
        self.read_contexts, self.score = task.read_contexts, task.score
        self.past_actions, self.DEMONSTRATOR = task.past_actions, task.DEMONSTRATOR

    def spec(self, task):
        """The sizes; `task` is `config.task`."""
        return self.SPEC

    def rollout(self, actor, key, num_episodes: int, **how) -> engine.Episodes:
        """See `engine.in_contexts`; `encode`, of images, is needed: the actor is shown its
        features behind the numbers of an observation."""
        run = engine.in_contexts(self.RULES, self.draw_contexts, self.begin, self._each)
        return run(actor, key, num_episodes, **how)

    def load(self, task) -> tuple[list[Trajectory], dict]:
        """Demonstrations with images, and what they are; `task` is `config.task`, of which
        `demonstrations` may be a file of `vdd_jax.tasks.record --images`, or a directory of
        official recordings, `state` and `images`. The images are read later, see `Frames`.

        Raises:
          FileNotFoundError: there is nothing.
          ValueError: it is something else, or damaged.
        """
        given, discarded = task.demonstrations, 0
        if given and not given.endswith(".npz"):
            what, seen = f"official recordings in {given}", self._official(Path(given))
        else:
            if given:
                file, what = Path(given), f"recording {given}"
                found = read_of_task(given, self._task.SPEC)
            else:
                file = recording.cache_file(self.DEMONSTRATOR, task.episodes_per_mode, 0,
                                            images=True)
                what = "scripted demonstrator of vdd_jax"
                found = self._recorded(file, task.episodes_per_mode)
            discarded = found.discarded
            seen = [self._seen(t, partial(read_images, file, i, (len(t.actions), *IMAGES)))
                    for i, t in enumerate(found.trajectories)]
        return seen, {"demonstrations": f"{what}, {len(seen)} episodes with images",
                      "simulator": self.SIMULATOR, "episodes": len(seen),
                      "discarded": discarded}

    def _seen(self, trajectory: Trajectory, read) -> SeenTrajectory:
        own = trajectory.observations[:, : self.SPEC.observation_dim]
        stored = Stored((len(own), *IMAGES), read)
        return SeenTrajectory(own, trajectory.actions, stored)

    def _official(self, directory: Path) -> list[SeenTrajectory]:
        if directory.is_dir() and not d3il_images.is_here(directory):
            raise ValueError(f"{directory} has no folders 'state' and 'images', of which official "
                             "recordings with images consist")
        states = directory / "state"
        trajectories = self._task.read(states)
        names = [file.stem for file in sorted(states.glob("*.pkl"))]
        return [self._seen(t, partial(
            d3il_images.read, directory, name, len(t.actions), cameras.SIZE))
                for name, t in zip(names, trajectories, strict=True)]

    def _recorded(self, file: Path, episodes_per_mode: int):
        """As `recording.recorded`, drawn too.

        Raises:
          OSError: nothing can be kept.
        """
        demonstrator = self.DEMONSTRATOR
        total = episodes_per_mode * demonstrator.num_modes

        def make(parts: Path | None):
            if parts is None:
                raise OSError(f"{file.parent} cannot be written, where images are kept")
            with recording.drawing(demonstrator, images_of(file), total) as show:
                return recording.record(demonstrator, total, parts=parts, show=show)

        return recording.kept(
            file, f"[{self.name}] recording {total} demonstrations with images", make)
