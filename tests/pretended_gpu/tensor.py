"""A tensor on a pretended GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.pretended_gpu.rules import Rules

_rules: list[Rules] = []  # of the installation, while there is one


def set_rules(rules: Rules | None) -> None:
    """What operations go by from now on."""
    _rules[:] = [] if rules is None else [rules]


def rules() -> Rules:
    """What operations go by. Raises RuntimeError for a tensor that outlived its device."""
    if not _rules:
        raise RuntimeError("the pretended GPU of this tensor is gone")
    return _rules[0]


class PretendedTensor(Tensor):
    """To everybody a tensor on a GPU; `values_on_cpu` has the same shape, strides and number format."""

    values_on_cpu: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # nothing to do before `__torch_dispatch__`

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> PretendedTensor:
        # A view of a tensor from outside of inference mode is none of inference either.
        with torch.inference_mode(values.is_inference()):
            made: PretendedTensor = Tensor._make_wrapper_subclass(
                cls,
                values.size(),
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                layout=values.layout,
                device=device,
            )
        made.values_on_cpu = values
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return rules().run(func, args, kwargs or {})

    # What torch does without an operation, past `__torch_dispatch__` ------------------------------------------------

    def tolist(self) -> Any:
        rules().note_read(self.device, "tolist")
        return self.values_on_cpu.tolist()

    def numpy(self, *, force: bool = False) -> NoReturn:
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None, *_: Any, **__: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)

    def data_ptr(self) -> int:
        return self.values_on_cpu.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.values_on_cpu.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        copied.__dict__.update({name: value for name, value in self.__dict__.items() if name != "values_on_cpu"})
        memo[id(self)] = copied
        return copied

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"PretendedTensor({self.values_on_cpu!r}, device='{self.device}')"

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        assert isinstance(other, PretendedTensor)
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.values_on_cpu = other.values_on_cpu


def make_subclass(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What stands for `Tensor._make_subclass`, with which bitsandbytes makes its parameters of tensors."""

    def _make_subclass(cls: type, data: Tensor, require_grad: bool = False, **options: Any) -> Tensor:
        if not isinstance(data, PretendedTensor):
            return plain(cls, data, require_grad, **options)
        return PretendedTensor.__new__(_pretended(cls), data.values_on_cpu, data.device)

    return _make_subclass


@functools.cache
def _pretended(cls: type) -> Any:
    """A class of tensors on a pretended GPU that is also `cls`."""
    return type(cls)(cls.__name__, (cls, PretendedTensor), {})
