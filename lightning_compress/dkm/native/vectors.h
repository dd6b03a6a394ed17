/* Arithmetic on LANES numbers at once. Inlined into the passes of vector_tasks.h, which are built once for each kind of
processor and for each usual number of dimensions. */

#ifndef LIGHTNING_COMPRESS_VECTORS_H
#define LIGHTNING_COMPRESS_VECTORS_H

#include "passes.h"

#include <math.h>
#include <string.h>

#define VECTORS (2 * LANES) /* Vectors of a block. */
#define FAINTEST (-100.0f) /* Logarithms to base 2 below this count as nothing. */
#define UNIT 134217728.0f  /* 2^27, by which numbers of the exponent -100 + 127 are too small. */

/* Vectors of the compiler, of no more lanes than the processor has that they are built for. */
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* A number for each vector of a block. */
typedef struct {
    Floats half[2];
} Pair;

INLINE Floats choose(Integers condition, Floats yes, Floats no)
{
    return (Floats)((condition & (Integers)yes) | (~condition & (Integers)no));
}

INLINE Floats larger(Floats one, Floats other) { return choose(one > other, one, other); }
INLINE Floats smaller(Floats one, Floats other) { return choose(one < other, one, other); }

INLINE Pair every(float value)
{
    const Floats both = (Floats){0} + value;
    return (Pair){{both, both}};
}

INLINE float add_lanes(Floats values)
{
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += values[lane];
    return sum;
}

/* What every processor has, to fold a register. */
typedef int64_t Bits __attribute__((vector_size(16), aligned(4), may_alias));

INLINE int any_is_negative(Floats values)
{
    Bits parts[LANES / 4], bits;
    memcpy(parts, &values, sizeof parts);
    bits = parts[0];
    for (int part = 1; part < LANES / 4; part++)
        bits |= parts[part];
    return ((bits[0] | bits[1]) & (int64_t)0x8000000080000000) != 0;
}

/* 2^z to 2e-7 of it, for z below 120; 0 below FAINTEST. */
INLINE Floats power_of_two(Floats z)
{
    z = larger(z, (Floats){0} + (FAINTEST - 1));
    const Integers exponent = __builtin_convertvector(z - (FAINTEST - 0.5f), Integers);
    const Floats rest = z - __builtin_convertvector(exponent + (int32_t)FAINTEST, Floats);
    Floats sum = rest * (1.3276472e-3f * UNIT) + 9.6755414e-3f * UNIT;
    sum = sum * rest + 5.5507133e-2f * UNIT;
    sum = sum * rest + 2.4022120e-1f * UNIT;
    sum = sum * rest + 6.9314697e-1f * UNIT;
    sum = sum * rest + 1.0000001f * UNIT;
    return sum * (Floats)(exponent << 23);
}

/* What attention has over its floor, and where the floor does not bind. */
INLINE Floats over_floor(Floats soft, float floor) { return larger(soft - floor, (Floats){0}); }
INLINE Floats unbound_by(Floats soft, float floor) { return (Floats)((soft > floor) & (Integers)soft); }

#endif
