"""Triton 3.6's interpreter takes the only value of an array of one dimension by int(), which numpy 2.4 refuses: loops
over a number that the kernel was given don't run. Patches that conversion, if kernels are interpreted."""

import triton


def repair() -> None:
    if not triton.knobs.runtime.interpret:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor
    if getattr(patch, "repaired", False):
        return

    def repaired(tensor, scope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    repaired.repaired = True
    interpreter._patch_lang_tensor = repaired
