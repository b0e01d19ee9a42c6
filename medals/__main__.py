"`python -m medals VERB` is `medals VERB`; `torchrun -m medals train` starts a process per GPU. Written by hand, as nothing is to be shown."
import sys

from medals.cli import main

if __name__=='__main__': sys.exit(main())
