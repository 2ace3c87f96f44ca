"""The benchmark of meshes, at tiny sizes: every mesh computes the same. No times."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
import scaling  # noqa: E402

TINY = ("--sizes=observation_dim=3,action_dim=2,window=2,goal_length=0,samples=1,teacher_width=8,"
        "teacher_depth=1,teacher_heads=2,student_width=8,student_depth=1,student_heads=2,"
        "head_width=6,gating_width=6,gating_depth=1")


def test_every_mesh_computes_the_losses_of_the_first(tmp_path, capsys):
    """With dropout, and experts in parts too."""
    out = tmp_path / "scaling.json"
    assert scaling.main(["--meshes=1x1,2x2", "--batch=4", "--rounds=2", "--each=1", TINY,
                         f"--out={out}"]) == 0
    meshes = json.loads(out.read_text())["meshes"]
    assert list(meshes) == ["1x1", "2x2"]
    assert meshes["1x1"]["of_first"] == [1, 1, 1] and meshes["1x1"]["loss_difference"] == 0
    assert meshes["2x2"]["loss_difference"] < 1e-5
    assert [row["devices"] for row in meshes.values()] == [1, 4]
    one, two = meshes["2x2"]["first_losses"]
    assert one != two
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == list(meshes)


def test_a_mesh_that_does_not_divide_has_its_reason(capsys):
    """In the table; the exit status tells."""
    assert scaling.main(["--meshes=1x3", "--batch=4", "--rounds=1", "--each=1", TINY]) == 1
    assert "1x3: failed: ConfigError: config.student.num_experts is 4" in capsys.readouterr().out
