/* Attention of a block of vectors to a palette, and what is summed up of it. As vector_attender.py, which has the
formulas. A register holds one element of LANES vectors, a block two registers for each element. */

#ifndef LIGHTNING_COMPRESS_VECTOR_LANES_H
#define LIGHTNING_COMPRESS_VECTOR_LANES_H

#include "vector_passes.h"
#include "vectors.h"

#define FAR 100.0f /* Logarithms of what is paid to the nearest centroid that single precision rounds too much. */
#define ROUNDED 1.000004f /* Squared distances that may be as large, for how they are rounded. */

/* The centroids that a block pays to. */
typedef struct {
    int64_t count;
    uint8_t index[MOST_CLUSTERS];
} Near;

INLINE void all_are_near(int64_t clusters, Near *near)
{
    near->count = clusters;
    for (int64_t k = 0; k < clusters; k++)
        near->index[k] = (uint8_t)k;
}

/* Bits of centroids, 64 to a word. */
INLINE void recall(const uint64_t *words, int64_t clusters, Near *near)
{
    near->count = 0;
    for (int64_t base = 0; base < clusters; base += 64)
        for (uint64_t left = words[base / 64]; left; left &= left - 1)
            near->index[near->count++] = (uint8_t)(base + __builtin_ctzll(left));
}

INLINE void note_down(const Near *near, int64_t clusters, uint64_t *words)
{
    for (int64_t base = 0; base < clusters; base += 64)
        words[base / 64] = 0;
    for (int64_t j = 0; j < near->count; j++)
        words[near->index[j] / 64] |= (uint64_t)1 << near->index[j] % 64;
}

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

/* Takes the least from squared distances of the vectors of a block that are far from their nearest centroids, in double
precision where several centroids are nearly as far, and puts 0 in its place. */
__attribute__((noinline)) static void tell_apart(const VectorPalette *palette, int64_t dimensions, const Near *near,
                                                 const Pair *x, Pair *soft, Pair *least)
{
    const float *places = (const float *)x;
    float *distances = (float *)soft, *nearest = (float *)least;
    for (int lane = 0; lane < VECTORS; lane++) {
        if (!(nearest[lane] * palette->scale > FAR))
            continue;
        const float most = nearest[lane] + palette->felt;
        double smallest = INFINITY;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t j = 0; j < near->count; j++) {
                const int64_t k = near->index[j];
                float *own = distances + j * VECTORS + lane;
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

/* Keeps the centroids that any vector which is there feels, and one in any case. */
INLINE void narrow(const VectorPalette *palette, const Pair *there, const Pair *least, Near *near, Pair *soft)
{
    Pair most;
    int64_t kept = 0;
    for (int half = 0; half < 2; half++)
        most.half[half] = choose(there->half[half] > 0, least->half[half] * ROUNDED + palette->felt,
                                 (Floats){0} - INFINITY);
    for (int64_t j = 0; j < near->count; j++) {
        const Pair distance = soft[j];
        near->index[kept] = near->index[j];
        soft[kept] = distance;
        kept += any_is_negative(smaller(distance.half[0] - most.half[0], distance.half[1] - most.half[1]));
    }
    near->count = kept ? kept : 1;
}

/* The attention p of a block to what is near, and its least squared distances. Vectors that are not there pay nothing.
narrows: whether `near`, of all centroids, is to become those that matter. */
INLINE Pair pay_block(const VectorPalette *palette, int64_t dimensions, int narrows, const Pair *x, const Pair *there,
                      Near *near, Pair *soft)
{
    Pair least = every(INFINITY), total = every(0), place[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++)
        place[d] = x[d];
    for (int64_t j = 0; j < near->count; j++)
        for (int half = 0; half < 2; half++) {
            const Floats distance = distance_to(palette, near->index[j], dimensions, place, half);
            soft[j].half[half] = distance;
            least.half[half] = smaller(distance, least.half[half]);
        }
    if (narrows)
        narrow(palette, there, &least, near, soft);
    Pair from = least;
    if (palette->precise && any_is_negative(FAR - larger(least.half[0], least.half[1]) * palette->scale))
        tell_apart(palette, dimensions, near, x, soft, &from);
    for (int64_t j = 0; j < near->count; j++)
        for (int half = 0; half < 2; half++) {
            const Floats paid = power_of_two((from.half[half] - soft[j].half[half]) * palette->scale);
            soft[j].half[half] = paid;
            total.half[half] += paid;
        }
    for (int half = 0; half < 2; half++)
        total.half[half] = choose(there->half[half] > 0, 1 / total.half[half], (Floats){0});
    for (int64_t j = 0; j < near->count; j++)
        for (int half = 0; half < 2; half++)
            soft[j].half[half] *= total.half[half];
    return least;
}

/* Sums of attention and of attention times what is summed, without the floor's: columns 0, and 1 and on. */
INLINE void sum_up_block(const VectorPass *pass, int64_t dimensions, const Near *near, const Pair *summed,
                         const Pair *soft, Floats *sums)
{
    Pair own[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++)
        own[d] = summed[d];
    for (int64_t j = 0; j < near->count; j++) {
        Floats *to = sums + near->index[j] * (1 + dimensions);
        for (int half = 0; half < 2; half++) {
            const Floats share = over_floor(soft[j].half[half], pass->floor);
            to[0] += share;
            for (int64_t d = 0; d < dimensions; d++)
                to[1 + d] += share * own[d].half[half];
        }
    }
}

INLINE void evaluate_block(const VectorPass *pass, int64_t dimensions, const Near *near, const Pair *soft,
                           Pair *result)
{
    Pair value[MOST_DIMENSIONS];
    for (int64_t d = 0; d < dimensions; d++)
        value[d] = result[d];
    for (int64_t j = 0; j < near->count; j++) {
        const float *after = pass->after + near->index[j] * dimensions;
        for (int half = 0; half < 2; half++) {
            const Floats share = over_floor(soft[j].half[half], pass->floor);
            for (int64_t d = 0; d < dimensions; d++)
                value[d].half[half] += share * after[d];
        }
    }
    for (int64_t d = 0; d < dimensions; d++)
        result[d] = value[d];
}

/* Through attention: gradients by the places of vectors, added to `slope`, and by the centroids before, in columns 1
and on. `carried` is the loss's gradient by what attention is evaluated to, for the last update; NULL for others. */
INLINE void react_block(const VectorPass *pass, int64_t dimensions, const Near *near, const Pair *x,
                        const Pair *carried, const Pair *soft, Pair *levers, Pair *slope, Floats *sums)
{
    /* Copies that no pointer leads to, which stay in registers. */
    Pair place[MOST_DIMENSIONS], upstream[MOST_DIMENSIONS], moved[MOST_DIMENSIONS], mean = every(0);
    for (int64_t d = 0; d < dimensions; d++) {
        place[d] = x[d];
        moved[d] = slope[d];
        if (carried)
            upstream[d] = carried[d];
    }
    for (int64_t j = 0; j < near->count; j++) {
        const int64_t first = near->index[j] * dimensions;
        for (int half = 0; half < 2; half++) {
            const Floats paid = soft[j].half[half], share = over_floor(paid, pass->floor);
            Floats lever = {0};
            for (int64_t d = 0; d < dimensions; d++) {
                const float own = pass->share[first + d], after = pass->after[first + d];
                lever += own * (place[d].half[half] - after);
                if (carried)
                    lever += upstream[d].half[half] * after;
                moved[d].half[half] += share * own;
            }
            mean.half[half] += unbound_by(paid, pass->floor) * lever;
            levers[j].half[half] = lever;
        }
    }
    for (int64_t d = 0; d < dimensions; d++) {
        slope[d] = moved[d];
        moved[d] = every(0);
    }
    for (int64_t j = 0; j < near->count; j++) {
        const float *centroid = pass->palette.centroids + near->index[j] * dimensions;
        Floats *to = sums + near->index[j] * (1 + dimensions);
        for (int half = 0; half < 2; half++) {
            const Floats paid = soft[j].half[half];
            const Floats pull = unbound_by(paid, pass->floor) * levers[j].half[half] - paid * mean.half[half];
            for (int64_t d = 0; d < dimensions; d++) {
                const Floats apart = place[d].half[half] - centroid[d];
                moved[d].half[half] += pull * apart;
                to[1 + d] += pull * apart;
            }
        }
    }
    for (int64_t d = 0; d < dimensions; d++)
        for (int half = 0; half < 2; half++)
            slope[d].half[half] -= moved[d].half[half] * pass->factor;
}

/* The numbers of the nearest centroids, and how many vectors and what sum of them each has: columns 0, and 1 and on, of
one lane. */
INLINE Pair assign_block(const VectorPass *pass, int64_t dimensions, const Pair *x, const Pair *there, int32_t *nearest,
                         Floats *sums)
{
    Pair least = every(INFINITY);
    for (int half = 0; half < 2; half++) {
        Integers index = {0};
        for (int64_t k = 0; k < pass->palette.clusters; k++) {
            const Floats distance = distance_to(&pass->palette, k, dimensions, x, half);
            const Integers nearer = distance < least.half[half];
            least.half[half] = choose(nearer, distance, least.half[half]);
            index = (nearer & (int32_t)k) | (~nearer & index);
        }
        memcpy(nearest + half * LANES, &index, sizeof index);
    }
    for (int lane = 0; lane < VECTORS; lane++) {
        float *own = (float *)(sums + nearest[lane] * (1 + dimensions)) + lane % LANES;
        if (((const float *)there)[lane] == 0)
            continue;
        own[0] += 1;
        for (int64_t d = 0; d < dimensions; d++)
            own[(1 + d) * LANES] += ((const float *)(x + d))[lane];
    }
    return least;
}

#endif
