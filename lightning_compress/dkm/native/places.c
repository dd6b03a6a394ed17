/* Passes over the places of weights: into the bins of a grid, and from functions known by their chords. As passes.py. */

#include "quads.h"

#include <string.h>

#define CHUNK 256         /* Weights whose bins are computed at once. */
#define AHEAD (2 * CHUNK) /* How far ahead memory is asked for. */

/* A pass over the places of G groups, (G, count), with a table for the bins of each: what is not used is NULL. */
typedef struct {
    int64_t next, parts;
    const float *places, *values;
    int64_t groups, count, size;
    const double *starts, *steps;
    double *tables;
    const float *chords;
    float *results;
} Pass;

/* Bins of a chunk of weights. */
INLINE void find_bins(const float *places, int64_t count, float start, float scale, int32_t size, int32_t *bins)
{
    const int32_t last = size - 1;
    for (int64_t i = 0; i < count; i++) {
        int32_t bin = (int32_t)((places[i] - start) * scale);
        bin = bin < 0 ? 0 : bin;
        bins[i] = bin > last ? last : bin;
    }
}

/* One chunk of each kind of pass, its bins known; by four where the compiler has vectors, what is left one by one. */

INLINE void count_chunk(int64_t length, const float *own, const float *values, const int32_t *bins,
                        double *table)
{
    int64_t i = 0;
#ifdef HAS_QUADS
    /* Both sums of a bin at once. */
    Twin *entries = (Twin *)table;
    for (; i + 2 <= length; i += 2) {
        const Twin places = twin_of(own + i), weighed = values ? twin_of(values + i) : (Twin){1, 1};
        const Twin moments = weighed * places;
        entries[bins[i]] += CHOOSE_TWIN(weighed, moments, 0, 2);
        entries[bins[i + 1]] += CHOOSE_TWIN(weighed, moments, 1, 3);
    }
#endif
    for (; i < length; i++) {
        const double value = values ? values[i] : 1;
        double *entry = table + 2 * (int64_t)bins[i];
        entry[0] += value;
        entry[1] += value * own[i];
    }
}

/* Chords: intercept and slope of each bin, together, for one memory access finds both. */
INLINE void interpolate_chunk(int64_t length, const float *restrict own, const int32_t *restrict bins,
                              const float *restrict chords, float *restrict result)
{
    int64_t i = 0;
#ifdef HAS_QUADS
    for (; i + 4 <= length; i += 4) {
        Quad intercept, slope;
        take_pairs(chords, bins + i, &intercept, &slope);
        *(Quad *)(result + i) = intercept + slope * quad_at(own + i);
    }
#endif
    for (; i < length; i++) {
        const float *chord = chords + 2 * (int64_t)bins[i];
        result[i] = chord[0] + chord[1] * own[i];
    }
}

/* Chords: those of the first function and of the second. */
INLINE void chain_chunk(int64_t length, const float *restrict own, const float *restrict given,
                        const int32_t *restrict bins, const float *restrict chords, float *restrict result)
{
    int64_t i = 0;
#ifdef HAS_QUADS
    for (; i + 4 <= length; i += 4) {
        const Quad place = quad_at(own + i);
        Quad chord[4];
        take_fours(chords, bins + i, chord);
        *(Quad *)(result + i) = (chord[0] + chord[1] * place) * quad_at(given + i) + (chord[2] + chord[3] * place);
    }
#endif
    for (; i < length; i++) {
        const float *chord = chords + 4 * (int64_t)bins[i];
        result[i] = (chord[0] + chord[1] * own[i]) * given[i] + (chord[2] + chord[3] * own[i]);
    }
}

FAST static void pass_parts(void *data)
{
    Pass *pass = data;
    int32_t bins[CHUNK];
    for (int64_t part = TAKE(&pass->next); part < pass->parts; part = TAKE(&pass->next)) {
        const int64_t first = pass->count * part / pass->parts, end = pass->count * (part + 1) / pass->parts;
        for (int64_t group = 0; group < pass->groups; group++) {
            const float start = (float)pass->starts[group], scale = (float)(1 / pass->steps[group]);
            const int64_t table = group * pass->size;
            for (int64_t begin = first; begin < end; begin += CHUNK) {
                const int64_t length = end - begin < CHUNK ? end - begin : CHUNK, at = group * pass->count + begin;
                const float *own = pass->places + at, *values = pass->values ? pass->values + at : NULL;
                /* Processors guess what is read next, but too late for chunks as short as these. */
                for (int64_t i = 0; i < CHUNK; i += LINE) {
                    SOON_READ(own + AHEAD + i);
                    if (values)
                        SOON_READ(values + AHEAD + i);
                    if (pass->results)
                        SOON_WRITTEN(pass->results + at + AHEAD + i);
                }
                find_bins(own, length, start, scale, (int32_t)pass->size, bins);
                if (pass->tables)
                    count_chunk(length, own, values, bins,
                                pass->tables + 2 * (part * pass->groups * pass->size + table));
                else if (values)
                    chain_chunk(length, own, values, bins, pass->chords + 4 * table, pass->results + at);
                else
                    interpolate_chunk(length, own, bins, pass->chords + 2 * table, pass->results + at);
            }
        }
    }
}

/* Sums over bins of values, or of ones, and of their products with places: tables (parts, G, size, 2), the first the result. */
int count_places(Fork fork, int64_t parts, const float *places, const float *values, int64_t groups,
                         int64_t count, const double *starts, const double *steps, int64_t size, double *tables)
{
    memset(tables, 0, (size_t)(2 * parts * groups * size) * sizeof(double));
    Pass pass = {0, parts, places, values, groups, count, size, starts, steps, tables, NULL, NULL};
    run(fork, parts, pass_parts, &pass);
    for (int64_t part = 1; part < parts; part++)
        for (int64_t i = 0; i < 2 * groups * size; i++)
            tables[i] += tables[2 * part * groups * size + i];
    return 0;
}

/* A function known by its chords, (G, size, 2), at every place. */
int interpolate(Fork fork, int64_t parts, const float *places, int64_t groups, int64_t count,
                        const double *starts, const double *steps, int64_t size, const float *chords, float *results)
{
    Pass pass = {0, parts, places, NULL, groups, count, size, starts, steps, NULL, chords, results};
    run(fork, parts, pass_parts, &pass);
    return 0;
}

/* first * upstream + second at every place, of two functions known by their chords, (G, size, 2, 2). */
int chain(Fork fork, int64_t parts, const float *places, const float *upstream, int64_t groups, int64_t count,
                  const double *starts, const double *steps, int64_t size, const float *chords, float *results)
{
    Pass pass = {0, parts, places, upstream, groups, count, size, starts, steps, NULL, chords, results};
    run(fork, parts, pass_parts, &pass);
    return 0;
}

/* What a loader of Python extensions looks for; the functions above are called without one. */
EXPORT void *PyInit__passes(void) { return NULL; }
