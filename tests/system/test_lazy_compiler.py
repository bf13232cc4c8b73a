"""PyTorch's compiler is imported when something is compiled, and not before."""

import subprocess
import sys

import pytest

HEAD = """
import sys
from cifar10.system.lazy_compiler import compiler_errors, put_off_compiler
put_off_compiler()

def is_imported():
    return "torch._dynamo.eval_frame" in sys.modules

import inspect, torch, torchvision
from pytorch_lightning.utilities.compile import to_uncompiled
from lightning_fabric.wrappers import _unwrap_compiled
weight = torch.nn.Parameter(torch.ones(3))
for optimizer in (torch.optim.SGD([weight], 0.1, momentum=0.9), torch.optim.AdamW([weight], 0.1)):
    weight.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
inspect.getmodule(weight)
network = torch.nn.Linear(3, 2)
assert _unwrap_compiled(network) == (network, None)
assert compiler_errors() == ()
assert not is_imported()
"""
USES = {
    "compile": "torch.compile(network, backend='eager')(torch.ones(1, 3))",
    "a module of it": "import torch._dynamo.exc; assert torch._dynamo.exc.__spec__.loader is not None",
    "a name of a module": "from torch._dynamo.utils import counters; assert counters is torch._dynamo.utils.counters",
    "what is compiled": "torchvision.ops.roi_align(torch.ones(1, 3, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2)\n"
    "torch._dynamo.reset()",
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_it_is_imported_at_its_first_use_and_works(use: str) -> None:
    code = f"""{HEAD}
{USES[use]}
assert is_imported()
import torch._dynamo.config, torch._dynamo.utils
assert torch._dynamo is sys.modules["torch._dynamo"] and type(torch._dynamo).__name__ == "module"
assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"] and torch._dynamo.utils.__spec__.origin
compiled = torch.compile(network, backend="eager")
assert _unwrap_compiled(compiled)[0] is network
optimizer = torch.optim.SGD([weight], 0.1)

@torch.compile(backend="eager")
def train():
    (weight * 2).sum().backward()
    optimizer.step()

before = weight.detach().clone()
optimizer.zero_grad()
train()
torch.testing.assert_close(weight.detach(), before - 0.2)

def fails(graph, inputs):
    raise ValueError("no backend")

try:
    torch.compile(torch.nn.Linear(3, 2), backend=fails)(torch.ones(1, 3))
except compiler_errors() as error:
    print("told", type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "told BackendCompilerFailed"


@pytest.mark.slow
def test_without_torch_nothing_is_put_off() -> None:
    code = """
import importlib.util, sys
importlib.util.find_spec = lambda name: None
from cifar10.system.lazy_compiler import put_off_compiler
put_off_compiler()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
