"""Other Python processes that find the backend as users' do: through the installed entry point."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import qaccel


def environment(folder: Path) -> dict[str, str]:
    """The environment for a process. Where qaccel is not installed but imported from the checkout, ``folder`` stands in."""
    env = {key: value for key, value in os.environ.items() if key != "TVM_DEVICE_BACKEND_AUTOLOAD"}
    if not any(point.name == "qaccel" for point in entry_points(group="tvm.backends")):
        info = folder / "site" / f"qaccel-{qaccel.__version__}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: qaccel\nVersion: {qaccel.__version__}\n")
        (info / "entry_points.txt").write_text("[tvm.backends]\nqaccel = qaccel.backend:register\n")
        package = Path(qaccel.__file__).parents[1]
        env["PYTHONPATH"] = os.pathsep.join([str(info.parent), str(package), env.get("PYTHONPATH", "")])
    return env


def run_python(code: str, folder: Path, *arguments: object) -> str:
    """Standard output of a script in a fresh process, in ``folder``; it must succeed and keep standard error empty."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
