"""imageio opens and saves `.sinr` files once this module is imported (`imageio.v3`, plugin `inrcodec`).

import inrcodec.plugins.imageio
array = iio.imread("photo.sinr", scale=2)            # and size, region, levels, prior, device
iio.imwrite("photo.sinr", array, quality=60)         # and whatever `inrcodec.encode` takes
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from imageio.config import FileExtension, PluginConfig, known_extensions, known_plugins
from imageio.core.request import URI_BYTES, InitializationError, IOMode, Request
from imageio.core.v3_plugin_api import ImageProperties, PluginV3
from numpy.typing import ArrayLike, NDArray

from inrcodec import api
from inrcodec.bitstream import MAGIC, unpack

NAME = "inrcodec"


class SinrPlugin(PluginV3):
    """One picture, of index 0."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._data = b""
        if request.mode.io_mode == IOMode.read:
            self._data = request.get_file().read()
            if not self._data.startswith(MAGIC):
                raise InitializationError("not a .sinr file")
        elif request.extension not in (".sinr", None):
            raise InitializationError("only .sinr files are written")

    def read(self, *, index: int = 0, **options: Any) -> NDArray[np.generic]:
        """The picture's array; the options are those of `inrcodec.decode`."""
        if index not in (0, ...):
            raise IndexError(f"a .sinr file has one picture, of index 0, not {index}")
        return api.decode(self._data, **options)

    def iter(self, **options: Any) -> Iterator[NDArray[np.generic]]:
        """The one picture."""
        yield self.read(**options)

    def write(self, ndimage: ArrayLike | list[ArrayLike], **options: Any) -> bytes | None:
        """Write a picture; the options are those of `inrcodec.encode`. Its bytes if they go to no file."""
        data = api.encode(np.asarray(ndimage), **options)
        self.request.get_file().write(data)
        return data if self.request._uri_type == URI_BYTES else None

    def properties(self, index: int = 0) -> ImageProperties:
        """Shape and type of the picture, without decoding it."""
        picture = api.SinrPicture(unpack(self._data))
        return ImageProperties(shape=picture.shape, dtype=picture.dtype)

    def metadata(self, index: int = 0, exclude_applied: bool = True) -> dict[str, Any]:
        """The bytes of "icc", "exif" and "xmp", as far as there are any, and the quality."""
        picture = api.SinrPicture(unpack(self._data))
        return {"quality": picture.quality, **picture.metadata}


known_plugins[NAME] = PluginConfig(NAME, SinrPlugin.__name__, __name__)
known_extensions[".sinr"] = [FileExtension(extension=".sinr", priority=[NAME], name="SINR")]
