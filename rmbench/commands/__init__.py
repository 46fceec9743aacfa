"""From overrides to jobs: Typer's arguments, Hydra's configs, what came of the jobs."""
