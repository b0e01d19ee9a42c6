"`python -m medals VERB` is `medals VERB`; `torchrun -m medals train` starts a process per GPU. Written by hand, as nothing is to be shown."
import os
import sys

from medals.cli import main

if __name__=='__main__':
    code = main()
    if 'RANK' in os.environ: # one of the processes that `torchrun` started
        from medals.training.distributed import leave
        leave(code)
    sys.exit(code)
