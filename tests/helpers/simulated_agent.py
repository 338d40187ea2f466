"""W&B's own agent, with a stand-in for the server: `python simulated_agent.py JOB.json ARGUMENTS`.

JOB.json has `config`, the sweep's, and `trials`, the settings that the server would give.
"""

import json
import os
import sys
from pathlib import Path

import wandb
from wandb import wandb_agent
from wandb.apis.public import sweeps

import main

job = json.loads(Path(sys.argv[1]).read_text())
commands = [
    {
        "type": "run",
        "run_id": f"trial{number}",
        "program": job["config"]["program"],
        "args": {key: {"value": value} for key, value in trial.items()},
    }
    for number, trial in enumerate(job["trials"])
]


def heartbeat(api, agent_id, metrics, run_status):
    """Give the next setting once the one before is done."""
    if run_status:
        return []
    return [commands.pop(0) if commands else {"type": "exit"}]


sweeps._sweep_with_runs = lambda *_, **__: {"config": json.dumps(job["config"])}
sweeps._register_agent = lambda *_, **__: {"id": "agent"}
sweeps._agent_heartbeat = heartbeat
wandb_agent.wandb_login._login = lambda **_: True
wandb_agent.Agent.POLL_INTERVAL = 0.1
wandb.Api = lambda: None
os.environ |= {"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40}

sys.exit(main.main(["agent", "--sweep=nobody/mctl/abc123", *sys.argv[2:]]))
