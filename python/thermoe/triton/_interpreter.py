"""Two repairs of Triton 3.6's interpreter, where kernels are interpreted.

It takes the only value of an array of one dimension by int(), which numpy 2.4 refuses: loops over a number that the
kernel was given don't run. And it prepares triton.language anew for each call of a function within a kernel, some
milliseconds each: once a launch is enough, and many times as fast.
"""

import inspect

import triton
import triton.language as tl


def repair() -> None:
    if not triton.knobs.runtime.interpret:
        return
    from triton.runtime import interpreter

    if getattr(interpreter._patch_lang, "repaired", False):
        return
    patch_tensor, patch_lang = interpreter._patch_lang_tensor, interpreter._patch_lang
    run = interpreter.GridExecutor.__call__
    prepared = set()  # kinds of modules, in this launch

    def repaired_tensor(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def repaired_lang(fn):
        kind = frozenset(id(v) for v in fn.__globals__.values() if inspect.ismodule(v) and v in (tl, tl.core))
        if kind in prepared:
            return interpreter._LangPatchScope()
        prepared.add(kind)
        return patch_lang(fn)

    def repaired_run(self, *arguments, **options):
        prepared.clear()
        try:
            return run(self, *arguments, **options)
        finally:
            prepared.clear()

    repaired_lang.repaired = True
    interpreter._patch_lang_tensor = repaired_tensor
    interpreter._patch_lang = repaired_lang
    interpreter.GridExecutor.__call__ = repaired_run
