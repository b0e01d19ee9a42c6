#!/bin/sh
"exec" "python3" "$0" "$@"  # To the shell: start Python with this file. To Python: four words that do nothing.
"""Pre-train a text encoder, on one core or many GPUs; the arguments are those of `medals pretrain`.

    medals knowledge structures uberon.obo -o know.jsonl
    bash sh/pretrain.sh know.jsonl -o ENCODER                            every GPU of this machine, or its CPU
    GPUS=2 bash sh/pretrain.sh know.jsonl -o ENCODER                     two of them (or two processes on a CPU)
    torchrun --nproc_per_node 4 sh/pretrain.sh know.jsonl -o ENCODER     as torchrun says

The published recipe, in its two stages (a language model of the hub, then images as well):

    torchrun --nproc_per_node 1 sh/pretrain.sh know.jsonl -o ONE --compat --model medals-s --base FremyCompany/BioLORD-2023-C
    torchrun --nproc_per_node 2 sh/pretrain.sh know.jsonl -o TWO --compat --model medals-s --base ONE --store STORE
"""
import os
import sys


def main():
    from medals.cli import main as medals, parser
    words = ['pretrain', *sys.argv[1:]]
    if 'RANK' not in os.environ: # nobody has started the processes yet
        parser('pretrain').parse_args(words) # a wrong flag ends here, in one line
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
