/* `arithmetic.c` for x86-64-v3. */
#include "arithmetic.h"

#ifdef HAS_LEVELS
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("arch=x86-64-v3"))), apply_to = function)
#else
#pragma GCC target("arch=x86-64-v3")
#endif
#define ARITHMETIC arithmetic_v3
#define BYTES 32
#define REGISTERS 16
#include "arithmetic.c"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
