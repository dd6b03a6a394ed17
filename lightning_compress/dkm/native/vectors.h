/* Attention of a block of vectors to a palette of vectors. As vector_attender.py.

A register holds one element of LANES vectors, a block two registers for each element. Everything here is inlined into
the passes of vector_passes.c, which are built once for each kind of processor and for each usual number of dimensions. */

#ifndef LIGHTNING_COMPRESS_VECTORS_H
#define LIGHTNING_COMPRESS_VECTORS_H

#include "passes.h"

#include <math.h>
#include <string.h>

#define LANES 16
#define VECTORS (2 * LANES) /* Vectors of a block. */
#define MOST_DIMENSIONS 64
#define FAINTEST (-100.0f) /* Logarithms to base 2 below this count as nothing. */
#define FAR 100.0f         /* Logarithms of what is paid to the nearest centroid that single precision rounds too much. */
#define FELT 40.0f         /* Logarithms below the largest of what counts among them. */

/* Vectors of the compiler: it cuts them into what a processor has. */
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

INLINE Pair every(float value)
{
    const Floats both = (Floats){0} + value;
    return (Pair){{both, both}};
}

INLINE double sum_lanes(Floats values)
{
    float lanes[LANES];
    double sum = 0;
    memcpy(lanes, &values, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

/* 2^z for z of 0 and below, to 2e-7 of it; 0 below FAINTEST. */
INLINE Floats power_of_two(Floats z)
{
    const Floats least = (Floats){0} + FAINTEST;
    const Integers felt = z > least;
    z = choose(felt, z, least);
    const Integers whole = __builtin_convertvector(z - 0.5f, Integers);
    const Floats rest = z - __builtin_convertvector(whole, Floats);
    Floats sum = rest * 1.5403530e-4f + 1.3333558e-3f;
    sum = sum * rest + 9.6181291e-3f;
    sum = sum * rest + 5.5504109e-2f;
    sum = sum * rest + 2.4022651e-1f;
    sum = sum * rest + 6.9314718e-1f;
    sum = sum * rest + 1.0f;
    return (Floats)(felt & (Integers)(sum * (Floats)((whole + 127) << 23)));
}

/* What is paid to a palette, and how: centroids are (clusters, dimensions). precise: the same in double precision where
they are so far apart that single precision tells too little, otherwise NULL. */
typedef struct {
    const float *centroids;
    const double *precise;
    int64_t clusters;
    float scale, zero_preference; /* scale: log2(e) / temperature */
} VectorPalette;

/* Squared distances of a block to one centroid. */
INLINE Floats distance_to(const VectorPalette *palette, int64_t k, int64_t dimensions, const Pair *x, int half)
{
    Floats sum = {0};
    for (int64_t d = 0; d < dimensions; d++) {
        const Floats apart = x[d].half[half] - palette->centroids[k * dimensions + d];
        sum += apart * apart;
    }
    return sum - (k ? 0 : palette->zero_preference);
}

/* Whether any of a block is as far from its nearest centroid. */
INLINE int is_far(const VectorPalette *palette, const Pair *least)
{
    const Integers far = (least->half[0] * palette->scale > FAR) | (least->half[1] * palette->scale > FAR);
    int32_t lanes[LANES], some = 0;
    memcpy(lanes, &far, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++)
        some |= lanes[lane];
    return some;
}

/* Takes the least from squared distances of the vectors of a block that are far from their nearest centroids, in double
precision where several centroids are nearly as far, and puts 0 in its place. */
__attribute__((noinline)) static void tell_apart(const VectorPalette *palette, int64_t dimensions, const Pair *x,
                                                 Pair *soft, Pair *least)
{
    const float *places = (const float *)x;
    float *distances = (float *)soft, *nearest = (float *)least;
    for (int lane = 0; lane < VECTORS; lane++) {
        if (!(nearest[lane] * palette->scale > FAR))
            continue;
        const float most = nearest[lane] + FELT / palette->scale;
        double smallest = INFINITY;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t k = 0; k < palette->clusters; k++) {
                float *own = distances + k * VECTORS + lane;
                if (!(*own <= most)) {
                    /* Nothing is paid to it, whatever is taken. */
                    continue;
                }
                double sum = k ? 0 : -(double)palette->zero_preference;
                for (int64_t d = 0; d < dimensions; d++) {
                    const double apart = (double)places[d * VECTORS + lane] - palette->precise[k * dimensions + d];
                    sum += apart * apart;
                }
                if (pass)
                    *own = (float)(sum - smallest);
                else
                    smallest = sum < smallest ? sum : smallest;
            }
        nearest[lane] = 0;
    }
}

/* The attention p of a block, (clusters), and its least squared distances. Vectors that are not there pay nothing. */
INLINE Pair pay_block(const VectorPalette *palette, int64_t dimensions, const Pair *x, const Pair *there, Pair *soft)
{
    Pair least = every(INFINITY), total = every(0), place[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++)
        place[d] = x[d];
    for (int64_t k = 0; k < palette->clusters; k++)
        for (int half = 0; half < 2; half++) {
            const Floats distance = distance_to(palette, k, dimensions, place, half);
            soft[k].half[half] = distance;
            least.half[half] = choose(distance < least.half[half], distance, least.half[half]);
        }
    Pair from = least;
    if (palette->precise && is_far(palette, &least))
        tell_apart(palette, dimensions, x, soft, &from);
    for (int64_t k = 0; k < palette->clusters; k++)
        for (int half = 0; half < 2; half++) {
            const Floats paid = power_of_two((from.half[half] - soft[k].half[half]) * palette->scale);
            soft[k].half[half] = paid;
            total.half[half] += paid;
        }
    for (int half = 0; half < 2; half++)
        total.half[half] = there->half[half] / total.half[half];
    for (int64_t k = 0; k < palette->clusters; k++)
        for (int half = 0; half < 2; half++)
            soft[k].half[half] *= total.half[half];
    return least;
}

/* What attention has over its floor, and where the floor does not bind. */
INLINE Floats over_floor(Floats soft, float floor) { return (Floats)((soft > floor) & (Integers)(soft - floor)); }
INLINE Floats unbound_by(Floats soft, float floor) { return (Floats)((soft > floor) & (Integers)soft); }

#endif
