"""From a description of an experiment to trained weights.

schema.py       nested mappings to checked dataclasses
stages.py       one stage of a run, its mesh on so many devices; stage_rules.py  what its fields keep together
experiment.py   the whole experiment, field by field
model_block.py  the model of a config; suitability.py  whether a stage and a model go together
validation.py   all of these at once, without JAX
inputs.py       the batches that a stage reads
plan.py         a stage on the devices of this run, checked before anything is compiled or written
workdir.py      which run a folder belongs to; provenance.py  what each start of it was made of
optimizers.py   schedules and AdamW
state.py        parameters, moments and key; where they live
step.py         one optimizer step
checkpoints.py  one Orbax folder per stage
seals.py        checksums of a checkpoint's files; recovery.py  the newest checkpoint that is whole
decision.py     what the first host decides for all
agreement.py    whether all hosts are of one mind at the start
beginnings.py   where the weights of a stage come from
feed.py         batches on the devices, ahead of time
held_out.py     losses on data that is not trained on
metrics.py      means of metrics; metrics.jsonl; boards.py  its rows for TensorBoard and W&B
recorder.py     from the metrics of a step to a row and a line
stopwatch.py    where the time goes
guards.py       steps that were passed over as not finite; spikes.py  losses that a run goes back from
progress.py     the bar, or lines in a log
interrupts.py   Ctrl-C and SIGTERM
heartbeats.py   where each host is; watch.py  ends one that hangs
profile.py      a trace of chosen steps
status.py       where a run stands, from its files
loop.py         all of it together
"""
