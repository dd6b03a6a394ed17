/* Four numbers at once, as every processor of ours has them, for what is looked up one by one: a table's entries are
taken in whole loads and turned, where the compiler would take each number of them by itself. */

#ifndef LIGHTNING_COMPRESS_QUADS_H
#define LIGHTNING_COMPRESS_QUADS_H

#include "passes.h"

#if defined(__GNUC__)
#define HAS_QUADS

typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t QuadOfIntegers __attribute__((vector_size(16), aligned(4), may_alias));
typedef double Twin __attribute__((vector_size(16), aligned(8), may_alias));
typedef double Whole __attribute__((aligned(4), may_alias));

/* Numbers of two vectors one after another, chosen by their places. */
#if defined(__clang__)
#define CHOOSE_QUAD(one, other, i, j, k, l) __builtin_shufflevector(one, other, i, j, k, l)
#define CHOOSE_TWIN(one, other, i, j) __builtin_shufflevector(one, other, i, j)
#else
typedef int64_t TwinOfPlaces __attribute__((vector_size(16)));
#define CHOOSE_QUAD(one, other, i, j, k, l) __builtin_shuffle(one, other, (QuadOfIntegers){i, j, k, l})
#define CHOOSE_TWIN(one, other, i, j) __builtin_shuffle(one, other, (TwinOfPlaces){i, j})
#endif

INLINE Quad quad_at(const float *from) { return *(const Quad *)from; }

INLINE Twin twin_of(const float *from) { return (Twin){from[0], from[1]}; }

INLINE Quad floats_of(const int32_t *from)
{
    return __builtin_convertvector(*(const QuadOfIntegers *)from, Quad);
}

INLINE Quad within(Quad values, float least, float most)
{
    QuadOfIntegers below = values < least, above;
    values = (Quad)((below & (QuadOfIntegers)((Quad){0} + least)) | (~below & (QuadOfIntegers)values));
    above = values > most;
    return (Quad)((above & (QuadOfIntegers)((Quad){0} + most)) | (~above & (QuadOfIntegers)values));
}

/* Entries of two floats each: the first floats of four entries, and the second ones. */
INLINE void take_pairs(const float *table, const int32_t *index, Quad *first, Quad *second)
{
    const Whole *entries = (const Whole *)table;
    const Quad low = (Quad)(Twin){entries[index[0]], entries[index[1]]};
    const Quad high = (Quad)(Twin){entries[index[2]], entries[index[3]]};
    *first = CHOOSE_QUAD(low, high, 0, 2, 4, 6);
    *second = CHOOSE_QUAD(low, high, 1, 3, 5, 7);
}

/* Entries of four floats each: one quad for each of their places. */
INLINE void take_fours(const float *table, const int32_t *index, Quad *places)
{
    const Quad a = quad_at(table + 4 * (int64_t)index[0]), b = quad_at(table + 4 * (int64_t)index[1]);
    const Quad c = quad_at(table + 4 * (int64_t)index[2]), d = quad_at(table + 4 * (int64_t)index[3]);
    const Quad low_front = CHOOSE_QUAD(a, b, 0, 4, 1, 5), low_back = CHOOSE_QUAD(c, d, 0, 4, 1, 5);
    const Quad high_front = CHOOSE_QUAD(a, b, 2, 6, 3, 7), high_back = CHOOSE_QUAD(c, d, 2, 6, 3, 7);
    places[0] = CHOOSE_QUAD(low_front, low_back, 0, 1, 4, 5);
    places[1] = CHOOSE_QUAD(low_front, low_back, 2, 3, 6, 7);
    places[2] = CHOOSE_QUAD(high_front, high_back, 0, 1, 4, 5);
    places[3] = CHOOSE_QUAD(high_front, high_back, 2, 3, 6, 7);
}
#endif

#endif
