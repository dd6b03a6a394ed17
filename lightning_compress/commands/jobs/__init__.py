"""Jobs of several stages, each run once however often the job is stopped: what `train` and `curve` have in common.

- `job`: stages, fits and measurements; `running` runs one, and says where it stood when it was stopped.
- `building` makes what stages need, `rehearsal` tries them before the first step.
- `folder`, `state`: where a job stands, and what it has finished.
- `launched`: processes that torchrun or srun has started agree on a folder.
- `launching`: parts of a job as jobs of one of Hydra's launchers.
- `continuation`, `random_states`, `logs`: a fit that is stopped and taken up again ends as if it had not been.
- `progress`: how long it will take.
"""
