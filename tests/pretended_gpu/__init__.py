"""GPUs on a machine without one: real numbers, computed on the CPU, under the rules of a GPU.

    with pretended_gpus(2) as (first, second):
        model = load_model(path, device="cuda:1")
        ...
        assert second.counts.reads == 3

`PretendedTensor` stands for a tensor on the device and holds the CPU tensor with its values (tensor.py). Every
operation on one passes rules.py: tensors of two devices do not mix, a value cannot be read while a graph is captured,
reads and copies that make the host wait are counted, allocations count against the device's memory (devices.py). A
CUDA graph is a tape of operations (graphs.py). installation.py puts all of it in torch's place and takes it away again.

No compiler is needed: torch finds kernels for the device among those registered from Python, and of the device guard,
which only exists in C++, the CPU's, which does nothing, is taken (installation.py).
"""
