#!/bin/sh
"exec" "python3" "$0" "$@"  # To the shell: start Python with this file. To Python: four words that do nothing.
"""Train from stores, on one core or many GPUs; the arguments are those of `medals train`.

    bash sh/train.sh STORE -o RUN                               every GPU of this machine, or its CPU
    GPUS=2 bash sh/train.sh STORE -o RUN                        two of them (or two processes on a CPU)
    torchrun --nproc_per_node 4 sh/train.sh STORE -o RUN        as torchrun says
    torchrun --nnodes 2 ... sh/train.sh STORE -o RUN            several machines, see sh/slurm_train.sh
"""
import os
import sys


def main():
    from medals.cli import main as medals, parser
    words = ['train', *sys.argv[1:]]
    if 'RANK' not in os.environ: # nobody has started the processes yet
        parser('train').parse_args(words) # a wrong flag ends here, in one line
        import torch
        n = int(os.environ.get('GPUS') or torch.cuda.device_count())
        if n>1:
            launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(n)]
            os.execv(sys.executable, [*launch, os.path.abspath(__file__), *sys.argv[1:]])
    return medals(words)


if __name__=='__main__':
    code = main()
    if 'RANK' in os.environ:
        from medals.training.distributed import leave
        leave(code)
    sys.exit(code)
