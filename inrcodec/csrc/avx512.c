/* `arithmetic.c` for CPUs of x86-64 with AVX-512. */
#include "arithmetic.h"

#ifdef HAS_AVX
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif
#define ARITHMETIC arithmetic_avx512
#define BYTES 64
#define REGISTERS 32
#include "arithmetic.c"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
