"""Which tests `./test --quick` leaves out: those that take longest, by files and folders, as measured.

They are not even imported: many begin with torch."""

from __future__ import annotations

SLOW = (
    "api", "cli", "e2e", "faults", "incident", "launchers",  # whole systems
    "bootstrap/test_checks.py", "bootstrap/test_environment.py", "bootstrap/test_inherited.py",
    "bootstrap/test_newest.py", "bootstrap/test_ownership.py", "cluster/test_local_agents.py", "control/test_door.py",
    "models/test_demo.py", "models/test_ends.py", "models/test_gguf.py", "models/test_hub.py", "models/test_inspect.py",
    "models/test_prequantized.py", "registry/test_durability.py", "registry/test_postgresql.py",
    "runs/test_real_runs.py", "runs/test_report.py", "sharding/test_cut.py", "sharding/test_disk_full.py",
    "test_house.py", "test_warm.py", "ui/scenario_place_by_hand.py", "ui/test_application.py",
    "ui/test_board_screen.py", "ui/test_jobs_dialogs.py", "ui/test_jobs_dock.py", "ui/test_jobs_everywhere.py",
    "ui/test_jobs_queue.py", "ui/test_nodes_screen.py", "ui/test_paging_model.py", "ui/test_real_mouse.py",
    "ui/test_runs_screen.py", "ui/test_shell_welcome.py", "ui/test_window_trouble.py",
    "worker_agent/engine/test_every_architecture.py", "worker_agent/engine/test_falling_back.py",
    "worker_agent/engine/test_going_on.py", "worker_agent/engine/test_grammars.py",
    "worker_agent/engine/test_kv_int8.py", "worker_agent/engine/test_lockstep.py", "worker_agent/engine/test_memory.py",
    "worker_agent/engine/test_ring_under_trouble.py", "worker_agent/engine/test_sampling.py",
    "worker_agent/engine/test_stage_memory.py", "worker_agent/engine/test_stage_times.py",
    "worker_agent/engine/test_stages_match_transformers.py", "worker_agent/engine/test_states.py",
    "worker_agent/host/test_agent_answers.py", "worker_agent/host/test_agent_life.py",
    "worker_agent/host/test_agent_ring.py", "worker_agent/host/test_joining.py",
    "worker_agent/host/test_keeper.py", "worker_agent/model/test_blocks.py",
    "worker_agent/model/test_imports.py", "worker_agent/model/test_probe.py", "worker_agent/model/test_proof.py",
    "worker_agent/model/test_rotary.py", "worker_agent/test_process.py", "worker_agent/wire/test_links.py",
)  # fmt: skip
"""Below `tests`."""
