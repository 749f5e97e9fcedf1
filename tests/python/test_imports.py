"""The list of library files behind each process: what `-resume` looks at."""

import json
import subprocess
import sys

from tlimb.imports import COMMANDS, ROOT, all_imports, imported_files


def test_the_committed_list_is_up_to_date():
    committed = json.loads((ROOT / "assets" / "imports.json").read_text())
    assert committed == all_imports(), "run python -m tlimb.imports"


def test_every_process_has_its_command_and_what_it_imports_at_start_is_listed():
    listed = all_imports()
    for process in ("COHORT", "SUGGEST", "RANK"):
        code = f"import runpy, sys; sys.argv=['x', '--help']; runpy.run_path({str(ROOT / 'bin' / COMMANDS[process])!r})"
        files = "m.__file__ for n, m in sys.modules.items() if n.startswith('tlimb') and m.__file__"
        shown = f"import sys; print('\\n'.join({files}))"
        done = subprocess.run([sys.executable, "-c", f"{code}\n{shown}"], capture_output=True, text=True, check=True)
        loaded = {f"python/tlimb/{line.split('/tlimb/')[-1]}" for line in done.stdout.splitlines()}
        assert loaded and loaded <= set(listed[process])


def test_relative_lazy_and_quoted_imports_are_followed_and_others_are_not(tmp_path):
    package = tmp_path / "tlimb"
    files = {
        "__init__.py": "",
        "a.py": "def f():\n    from tlimb.sub import b\n",
        "sub/__init__.py": "from ..c import x\n",
        "sub/b.py": "from . import d\nimport numpy\n",
        "sub/d.py": "NAMES = {'Net': 'tlimb.nets.net.Net', 'note': 'tlimb.does not exist'}\n",
        "nets/net.py": "",
        "c.py": "",
        "unused.py": "import tlimb.a\n",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (tmp_path / "command.py").write_text("from tlimb import a\n")
    assert imported_files(tmp_path / "command.py", package) == sorted(set(files) - {"unused.py"})
