"""The one part of the build that pyproject.toml cannot say: what is compiled, if there is a C compiler."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "inrcodec._kernels",
            [f"inrcodec/csrc/{name}.c" for name in ("module", "decoder", "arithmetic", "avx2", "avx512")],
            depends=[f"inrcodec/csrc/{name}" for name in ("arithmetic.h", "arithmetic.c", "decoder.h")],
            libraries=["m"],  # with glibc its vector functions, too
            extra_compile_args=["-O3", "-ffast-math", "-fno-associative-math"],  # angles are reduced in this very order
            optional=True,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
