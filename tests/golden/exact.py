"""transformers in f64 to the last operation."""

import contextlib

import torch


@contextlib.contextmanager
def in_f64():
    """Within, `float32` means f64 to whoever asks.

    Norms, rotations and softmax of transformers are computed in f32 whatever the model's format, and its tables of
    angles are made in f32: at position 8,000 these are off by 5e-4, so that a model in "f64" is no truth to hold f32
    against. Models must be made within, too.
    """
    narrow, short, to_float, default = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = narrow, short, to_float
        torch.set_default_dtype(default)


class OnlyF64(torch.utils._python_dispatch.TorchDispatchMode):
    """Fails at the first operation that makes floating-point numbers of fewer bits than f64."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                assert tensor.dtype == torch.float64, (operation, tensor.dtype)
        return out
