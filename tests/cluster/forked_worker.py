"""Start Ray's workers as forks, which is quick (`helpers/forks.py`); replaces `setup_worker.py`.

Ray does not run a file of that name if there is nothing to set up, hence the other name.
"""

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from helpers.forks import call

CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="

if __name__ == "__main__":
    context, own = dict[str, object](), []
    for argument in sys.argv[1:]:
        if argument.startswith(CONTEXT):
            context = json.loads(argument.removeprefix(CONTEXT))
        elif not argument.startswith(LANGUAGE):
            own.append(argument)
    os.environ.update(context.pop("env_vars", {}))
    asked = {name: value for name, value in context.items() if value}
    assert asked.pop("py_executable", sys.executable) == sys.executable
    assert not asked, f"not supported by forked workers: {asked}"
    sys.exit(call(own))
