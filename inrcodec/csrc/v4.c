/* `arithmetic.c` for x86-64-v4. */
#include "arithmetic.h"

#ifdef HAS_LEVELS
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("arch=x86-64-v4"))), apply_to = function)
#else
#pragma GCC target("arch=x86-64-v4")
#endif
#define ARITHMETIC arithmetic_v4
#define BYTES 64
#define REGISTERS 32
#include "arithmetic.c"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
