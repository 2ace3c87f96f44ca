"""Images of the MuJoCo tasks: two cameras, drawn off screen.

OpenGL without a display comes from EGL or from OSMesa, whichever works here (`MUJOCO_GL`, if set,
says which). As in the benchmark one camera stands in front of the table and one is held beside the
hand; shadows and reflections are left out, which cost most of the time.

As a program this file is one of the processes of a `Studio`; it imports nothing of vdd_jax, so that
one is soon there.
"""

import os
import pickle
import signal
import subprocess
import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SIZE = 96  # pixels of a side
CAMERAS = ("cage", "hand")


class Camera(NamedTuple):
    """A camera that looks along its −z axis, its x axis to the right."""

    name: str
    position: tuple[float, float, float]  # metres, in the frame of its body
    quaternion: tuple[float, float, float, float]  # w first
    field: float  # of view, degrees

    def mjcf(self) -> str:
        numbers = (" ".join(f"{v:.9g}" for v in values) for values in (self.position,
                                                                       self.quaternion))
        return '<camera name="{}" pos="{}" quat="{}" fovy="{}"/>'.format(
            self.name, *numbers, self.field)


CAGE = Camera("cage", (1.05, 0.0, 1.2), (0.6830127, 0.1830127, 0.1830127, 0.6830127), 45.0)
LIGHT = '<light pos="0.5 0 1.5" dir="0 0 -1" directional="true" diffuse="0.6 0.6 0.6"/>'


def hand_camera(above: float) -> str:
    """The MJCF of the camera at the hand, so far above its tcp."""
    return Camera("hand", (0.1, 0.0, above), (0.5**0.5, 0.0, 0.0, -(0.5**0.5)), 60.0).mjcf()


class NoOpenGL(OSError):
    """Nothing can be drawn on this machine; the text is for the user."""


_PROBE = ("from mujoco.{0} import GLContext as C; c = C(8, 8); c.make_current(); "
          "from OpenGL import GL; print(GL.glGetString(GL.GL_RENDERER).decode()); c.free()")


class OpenGL(NamedTuple):
    """What draws."""

    backend: str  # 'egl' or 'osmesa'
    renderer: str  # as it calls itself

    @property
    def software(self) -> bool:
        """Whether the cores draw: several processes then draw more than one. On a GPU they do not
        (one H200: .24 ms a pair of images by one process, .43 by 14 at once)."""
        return self.backend == "osmesa" or any(
            name in self.renderer.lower() for name in ("llvmpipe", "softpipe", "swrast"))


@lru_cache(maxsize=1)
def opengl() -> OpenGL:
    """Of EGL and OSMesa, whichever draws here. Each is tried in a process of its own: one that
    fails spoils OpenGL for the process it is in.

    Raises:
      NoOpenGL: neither does.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    for name in (wanted,) if wanted in ("egl", "osmesa") else ("egl", "osmesa"):
        environment = {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}
        tried = subprocess.run([sys.executable, "-c", _PROBE.format(name)], env=environment,
                               capture_output=True, text=True, check=False)
        if not tried.returncode:
            return OpenGL(name, tried.stdout.strip())
    raise NoOpenGL("images cannot be drawn: neither EGL nor OSMesa works here; install one of them "
                   "(Debian, Ubuntu: libegl1 and libgl1-mesa-dri, or libosmesa6)")


def _context(name: str, size: int):
    os.environ["PYOPENGL_PLATFORM"] = name
    if name == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    return GLContext(size, size)


class Renderer:
    """Draws a model in given states. It belongs to the thread that made it. `backend` as of
    `OpenGL`; None: what works here."""

    def __init__(self, model, size: int = SIZE, backend: str | None = None):
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, mujoco.MjData(model)
        self._gl = _context(backend or opengl().backend, size)
        self._gl.make_current()
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._options, self._size = mujoco.MjvOption(), size
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def draw(self, places: np.ndarray, cameras: tuple[str, ...] = CAMERAS) -> np.ndarray:
        """Coordinates `[Q]` of the model → `[C, S, S, 3]` uint8, rows from above."""
        mj = self._mujoco
        self._data.qpos[:] = places
        mj.mj_kinematics(self._model, self._data)
        mj.mj_camlight(self._model, self._data)
        view = mj.MjrRect(0, 0, self._size, self._size)
        images = np.empty((len(cameras), self._size, self._size, 3), np.uint8)
        for image, name in zip(images, cameras, strict=True):
            self._camera.fixedcamid = self._model.camera(name).id
            mj.mjv_updateScene(self._model, self._data, self._options, None, self._camera,
                               mj.mjtCatBit.mjCAT_ALL.value, self._scene)
            mj.mjr_render(view, self._scene, self._drawing)
            mj.mjr_readPixels(image, None, view, self._drawing)
        return images[:, ::-1]

    def close(self) -> None:
        """Gives OpenGL back."""
        self._gl.make_current()
        self._drawing.free()
        self._gl.free()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def draw_all(model, states: np.ndarray, size: int = SIZE, cameras: tuple[str, ...] = CAMERAS
             ) -> np.ndarray:
    """States `[L, Q]` of a model → `[L, C, S, S, 3]` uint8."""
    with Renderer(model, size) as renderer:
        return np.stack([renderer.draw(places, cameras) for places in states])


def serve(requests, images, backend: str) -> None:
    """Draws until there is nothing more to read: a pickled model first, then, as often as wanted,
    states `[L, Q]`, of which images `[L, C, S, S, 3]` come back as plain bytes."""
    with Renderer(pickle.load(requests), backend=backend) as renderer:
        while True:
            try:
                states = pickle.load(requests)
            except EOFError:
                return
            for places in states:
                images.write(renderer.draw(places).tobytes())
            images.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever libraries print
    serve(sys.stdin.buffer, answers, sys.argv[1])
