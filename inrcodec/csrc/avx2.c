/* `arithmetic.c` for CPUs of x86-64 with AVX2. */
#include "arithmetic.h"

#ifdef HAS_AVX
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define ARITHMETIC arithmetic_avx2
#define BYTES 32
#define REGISTERS 16
#include "arithmetic.c"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
