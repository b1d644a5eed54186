"""`paretrim recover RUN`: fine-tune points of a front with Ray Tune, and put them back into it.

command.py   from the run folder and back into it
wish.py      what the user asked for
trials.py    one training of one point
tuning.py    all trainings under Ray Tune: which go on, which end, which was best
weights.py   the weights of a recovered point
points.py    what a training ended with becomes a point: files, record, recipe

The search's own files are the source and stay as they are: the journal is only read, the front as
the search left it is kept in `recover/front.csv`. What is recovered lies in `models/ID/` and, one
JSON a point, in `recover/points/`; front.csv, picks.json and the report are made anew from both
(`search.finished`), each in one rename. So a recovery may be killed at any moment, and goes on
where it was when the same command is given again.

    runs/search/exp/recover/
        front.csv           the front of the search
        points/p03r.json    a recovered point: its score and where it came from
        tune-0123abcd/      Ray Tune's state, one folder a plan
            trainings/p03-trial-0.ckpt  what a trial goes on from
"""
