"""Compilation of code that only its callers contain, so that machine code is made once: for them.

Numba makes machine code of every function, and again of it inside every function that calls it.
What is overridden here, and called by jit.py to load code, is not public: with a Numba that was not
tried (or FASTFISHER_LINK=numba) its own way is taken, which gives the same code, compiles for twice
as long and takes a quarter of a second more to load the first.
"""

import os

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags, compile_extra

__all__ = ["INNER", "KNOWN", "OUTER", "compile_inside"]

TRIED = (0, 63), (0, 68)
_version = tuple(int(part) for part in numba.__version__.split(".")[:2])
KNOWN = TRIED[0] <= _version <= TRIED[1] and os.environ.get("FASTFISHER_LINK") != "numba"


class _OuterLibrary(JITCodeLibrary):
    """Code that is optimised as a whole; what it links in was optimised function by function."""

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout


class _InnerLibrary(JITCodeLibrary):
    """LLVM code that is linked into its callers."""

    @property
    def codegen(self):
        return self

    def set_env(self, name, environment):
        """The environment serves exceptions with arguments, which kernels do not raise."""

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


class _OuterCompiler(Compiler):
    """Numba's compiler, for what is called by address or from Python."""

    def __init__(self, typingctx, targetctx, library, *args):
        if library is None:
            library = _OuterLibrary(targetctx.codegen(), "outer")
            library.enable_object_caching()
        super().__init__(typingctx, targetctx, library, *args)


class _InnerCompiler(Compiler):
    """Numba's compiler up to LLVM code."""

    def __init__(self, typingctx, targetctx, library, *args):
        if library is None:
            library = _InnerLibrary(targetctx.codegen(), "inner")
        super().__init__(typingctx, targetctx, library, *args)


# Options of Numba's compiler, for code that is called from outside and for code that is not.
OUTER = {"pipeline_class": _OuterCompiler} if KNOWN else {}
INNER = {"pipeline_class": _InnerCompiler} if KNOWN else {}


def compile_inside(context, dispatcher, argtypes):
    """Compile a function into the library that is being built, by whose code it will be called."""
    if not KNOWN:
        dispatcher.compile(argtypes)
        compiled = dispatcher.overloads[argtypes]
        context.active_code_library.add_linking_library(compiled.library)
        return compiled
    flags = Flags()
    dispatcher.targetdescr.options.parse_as_flags(flags, dispatcher.targetoptions)
    flags.no_compile = True
    return compile_extra(
        context.typing_context,
        context,
        dispatcher.py_func,
        args=argtypes,
        return_type=None,
        flags=flags,
        locals={},
        library=context.active_code_library,
    )
