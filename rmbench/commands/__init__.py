"""From words to jobs: Typer's words, Hydra's configs, what came of the jobs."""
