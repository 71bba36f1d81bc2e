"""Write a pickle that old environments read: wetectron and mmdetection 2 live beside Python 3.7 and numpy 1."""

from __future__ import annotations

import io
import pickle
from typing import Any, Final

PROTOCOL: Final = 3
"""The newest that every Python 3 reads and that spells the names of functions as text."""

_NEW, _OLD = "numpy._core.", "numpy.core."
_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):
    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Numpy's functions under the name that they had before numpy 2, which numpy 2 still knows."""
        module = str(getattr(obj, "__module__", ""))
        if not module.startswith(_NEW):
            super().save_global(obj, name)
            return
        self.write(pickle.GLOBAL + f"{_OLD}{module.removeprefix(_NEW)}\n{obj.__name__}\n".encode())
        self.memoize(obj)


def pickle_bytes(content: Any) -> bytes:
    """`content` as a pickle: equal contents give equal bytes, whatever numpy wrote them.

    Args:
        content: lists, dictionaries, numbers, strings and numpy arrays.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, PROTOCOL).dump(content)
    return buffer.getvalue()
