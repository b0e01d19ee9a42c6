"Made-up weights and inputs that the golden numbers were computed with"
import math
import socket
import subprocess
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

here = Path(__file__).resolve().parent
shared = here.parents[1]/'shared'


def filler(key, shape):
    "Deterministic numbers in [-1,1) that depend on a key and the flat index"
    n = math.prod(shape)
    x = (np.arange(n, dtype=np.uint64)*np.uint64(2654435761)+np.uint64(zlib.crc32(key.encode()))) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    x = (x*np.uint64(73244475)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return (2*x.astype(np.float64)/2**32-1).reshape(shape)


def fill_weight(key, shape):
    "A weight by the rule of the float64 vectors"
    u = filler(key, shape)
    if len(shape)>1: return u*math.sqrt(3/math.prod(shape[1:]))
    return 1+.2*u if key.endswith('weight') else .1*u


def salted_weight(key, shape, salt):
    "A weight by the rule of the float32 vectors"
    x = np.random.Generator(np.random.PCG64(zlib.crc32((salt+key).encode()))).standard_normal(tuple(shape), dtype=np.float32)
    if len(shape)>1: return x/np.float32(math.sqrt(math.prod(shape[1:])))
    return 1+np.float32(.1)*x if key.endswith('weight') else np.float32(.1)*x


def set_weights(model, rule, dtype=torch.float32):
    "Give every tensor of a model its number by a rule `(key, shape) -> array`"
    sd = {k: torch.from_numpy(np.asarray(rule(k, tuple(v.shape))).astype(np.float32)).to(dtype) for k,v in model.state_dict().items()}
    model.load_state_dict(sd, assign=True)
    return model.eval()


@contextmanager
def dask_cluster(cwd, workers=2, env=None):
    "A scheduler and workers in processes of their own: the address, and the workers"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    address = f'tcp://127.0.0.1:{port}'
    main = ['scheduler', '--host', '127.0.0.1', '--port', str(port), '--no-dashboard']
    helper = ['worker', address, '--nthreads', '1', '--no-nanny', '--no-dashboard', '--host', '127.0.0.1']
    def one(kind, *args):
        cmd = [sys.executable, '-m', f'distributed.cli.dask_{kind}', *args]
        return subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd, env=env)
    running = [one(*main)]
    try:
        running += [one(*helper) for _ in range(workers)]
        yield address,running[1:]
    finally:
        for p in running: p.kill()
