"""What `tire bench` measures: the product against what people use instead, in the same run on the same machine.

measure   rounds, orders and figures (pure), and the clock of a process
pictures  the photographs that are loaded
designs   our loader and the two that need no environment of their own, a child process a measurement
peers     the others, a script that runs in .venv-bench and imports nothing of ours
loader    prepares, runs the rounds, gathers the rows

load              requests over plain sockets, and what became of them
serve             one model behind several servers, asked by one generator
serving_litserve  LitServe, and serving_peers what `mlflow models serve` needs: scripts that run in .venv-bench
training  one training in several loops, interleaved
loops     ours and the others, a child process a training
"""
