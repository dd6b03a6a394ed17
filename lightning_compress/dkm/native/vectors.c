/* Differentiable k-means of vectors: whole clusterings of a weight, and their derivatives. As vector_clustering.py.

A weight is (groups, chunks, dimensions, row): channels that follow each other are the elements of a vector, and lie
`row` apart, so that weights are read where they are. Palettes are (groups, clusters, dimensions) in double precision. */

#if defined(__GNUC__)

#include "vector_passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDE 100 /* Temperatures in the variance of a palette that is wide. */
#define FELT 40  /* Logarithms to base 2 below the largest of what counts. */

/* Numbers in single precision. */
static void to_single(const double *values, int64_t count, float *table)
{
    for (int64_t i = 0; i < count; i++)
        table[i] = (float)values[i];
}

/* Lets attention be paid to a palette. */
static void pay_to(VectorPass *pass, const double *palette, double temperature, float *table)
{
    const int64_t clusters = pass->palette.clusters, dimensions = pass->dimensions;
    double sum = 0, squares = 0, variance = 0;
    for (int64_t d = 0; d < dimensions; d++, sum = squares = 0) {
        for (int64_t k = 0; k < clusters; k++) {
            const double value = palette[k * dimensions + d];
            sum += value;
            squares += value * value;
        }
        variance += (squares - sum * sum / clusters) / (clusters * dimensions);
    }
    to_single(palette, clusters * dimensions, table);
    pass->palette.precise = variance > WIDE * temperature ? palette : NULL;
}

/* The room that passes over one group need: three palettes, and sums and totals of every part. */
static int make_room(VectorPass *pass, float **tables)
{
    const int64_t palette = pass->palette.clusters * pass->dimensions, d = pass->dimensions;
    *tables = calloc((size_t)(3 * palette), sizeof(float));
    pass->sums = malloc((size_t)(pass->parts * pass->palette.clusters * (1 + d)) * sizeof(double));
    pass->totals = malloc((size_t)(pass->parts * (2 + d)) * sizeof(double));
    pass->palette.centroids = *tables;
    pass->after = *tables + palette;
    pass->share = *tables + 2 * palette;
    return !*tables || !pass->sums || !pass->totals;
}

static void leave(VectorPass *pass, float *tables)
{
    free(tables);
    free(pass->sums);
    free(pass->totals);
}

static VectorPass begin(int64_t parts, int64_t chunks, int64_t dimensions, int64_t row, int64_t clusters,
                        double temperature, double floor, double zero_preference, int64_t skip_zeros)
{
    VectorPass pass = {0};
    pass.parts = parts;
    pass.chunks = chunks;
    pass.dimensions = dimensions;
    pass.row = row;
    pass.palette.clusters = clusters;
    pass.palette.scale = (float)(1.4426950408889634 / temperature);
    pass.palette.zero_preference = (float)zero_preference;
    pass.floor = (float)floor;
    /* What is paid below the floor does not matter; twice that allows for how it is rounded. */
    const double felt = floor > 0 && -log2(floor) + 1 < FELT ? -log2(floor) + 1 : FELT;
    pass.palette.felt = (float)felt / pass.palette.scale;
    pass.factor = (float)(2 / temperature);
    pass.skip_zeros = skip_zeros;
    return pass;
}

/* Lets a pass have the part of a group in what is kept of all, if anything is. */
static void find_group(VectorPass *pass, int64_t group, int32_t *order, uint64_t *near)
{
    const int64_t count = pass->chunks * pass->row, words = (pass->palette.clusters + 63) / 64;
    pass->order = order ? order + group * count : NULL;
    pass->near = order ? near + group * ((count + LEAST_BLOCK - 1) / LEAST_BLOCK) * words : NULL;
}

/* Centroids after an update from sums that a pass left, and how much is attended to each. */
static void update(const VectorPass *pass, int64_t clusters, double floor, int64_t fix_zero, const double *before,
                   double *after, double *attended)
{
    const int64_t dimensions = pass->dimensions, columns = 1 + dimensions;
    for (int64_t k = 0; k < clusters; k++) {
        attended[k] = pass->sums[k * columns] + floor * pass->totals[1];
        for (int64_t d = 0; d < dimensions; d++) {
            const double moment = pass->sums[k * columns + 1 + d] + floor * pass->totals[2 + d];
            /* A centroid that nothing attends to stays where it is. */
            after[k * dimensions + d] = attended[k] > 0 ? moment / attended[k] : before[k * dimensions + d];
        }
    }
    for (int64_t d = 0; d < dimensions && fix_zero; d++)
        after[d] = 0;
}

/* Clusters a weight softly.

trace: (iterations + 1, groups, clusters, dimensions), the first palettes before, then those after each update; updates
that an early stop left out repeat the last. attended: (iterations, groups, clusters). done: updates made, (groups).
epsilon: below 0 for no early stop. order: (groups, vectors), and near: (groups, blocks of vectors, words of 64 bits),
are for palettes of many, or NULL; they are filled for `differentiate_vectors`. */
EXPORT int cluster_vectors(Fork fork, int64_t parts, const float *weight, int64_t groups, int64_t chunks,
                           int64_t dimensions, int64_t row, int64_t clusters, int64_t iterations, double epsilon,
                           double temperature, double floor, double zero_preference, int64_t fix_zero,
                           int64_t skip_zeros, double *trace, double *attended, int64_t *done, int32_t *order,
                           uint64_t *near, float *output)
{
    const int64_t palette = clusters * dimensions, size = chunks * dimensions * row;
    VectorPass pass = begin(parts, chunks, dimensions, row, clusters, temperature, floor, zero_preference, skip_zeros);
    float *tables;
    int failed = make_room(&pass, &tables);
    for (int64_t group = 0; group < groups && !failed; group++) {
        double previous = 0;
        int64_t step = 0;
        pass.weight = pass.carried = weight + group * size;
        pass.results = NULL;
        find_group(&pass, group, order, near);
        failed = order && order_vectors(fork, &pass);
        pass.narrows = 1;
        for (int going_on = 1; going_on && !failed; step++) {
            double *before = trace + (step * groups + group) * palette, *after = before + groups * palette;
            pay_to(&pass, before, temperature, tables);
            failed = run_vector_pass(fork, &pass, SUM_UP);
            update(&pass, clusters, floor, fix_zero, before, after, attended + (step * groups + group) * clusters);
            const double inertia = pass.totals[0], change = inertia - previous;
            going_on = step + 1 < iterations && (epsilon < 0 || !previous || fabs(change) > epsilon);
            previous = inertia;
        }
        done[group] = step;
        const double *last = trace + (step * groups + group) * palette;
        for (int64_t left = step + 1; left <= iterations; left++)
            memcpy(trace + (left * groups + group) * palette, last, (size_t)palette * sizeof(double));
        to_single(last, palette, tables + palette);
        pass.results = output + group * size;
        pass.narrows = 0;
        failed = failed || run_vector_pass(fork, &pass, EVALUATE);
    }
    leave(&pass, tables);
    return failed;
}

/* Derivatives of a loss by the weight and by the first palettes, from those by what `cluster_vectors` returned. */
EXPORT int differentiate_vectors(Fork fork, int64_t parts, const float *weight, const float *upstream, int64_t groups,
                                 int64_t chunks, int64_t dimensions, int64_t row, int64_t clusters,
                                 double temperature, double floor, double zero_preference, int64_t fix_zero,
                                 int64_t skip_zeros, const double *trace, const double *attended,
                                 const int64_t *done, int32_t *order, uint64_t *near, const double *by_last,
                                 float *by_weight, double *by_first)
{
    const int64_t palette = clusters * dimensions, size = chunks * dimensions * row, columns = 1 + dimensions;
    VectorPass pass = begin(parts, chunks, dimensions, row, clusters, temperature, floor, zero_preference, skip_zeros);
    float *tables;
    double *share = malloc((size_t)palette * sizeof(double)), *by_before = malloc((size_t)palette * sizeof(double));
    int failed = make_room(&pass, &tables) || !share || !by_before;
    for (int64_t group = 0; group < groups && !failed; group++) {
        const int64_t last = done[group] - 1;
        double *gradient = by_first + group * palette;
        pass.weight = weight + group * size;
        pass.carried = upstream + group * size;
        pass.results = by_weight + group * size;
        find_group(&pass, group, order, near);
        for (int64_t step = last; step >= 0 && !failed; step--) {
            const double *before = trace + (step * groups + group) * palette, *after = before + groups * palette;
            const double *paid = attended + (step * groups + group) * clusters;
            pay_to(&pass, before, temperature, tables);
            to_single(after, palette, tables + palette);
            pass.narrows = step < last;
            if (step == last) {
                failed = run_vector_pass(fork, &pass, SUM_UP);
                for (int64_t k = 0; k < clusters; k++)
                    for (int64_t d = 0; d < dimensions; d++)
                        gradient[k * dimensions + d] = by_last[group * palette + k * dimensions + d] +
                                                       floor * pass.totals[2 + d] + pass.sums[k * columns + 1 + d];
            }
            for (int64_t k = 0; k < clusters; k++)
                for (int64_t d = 0; d < dimensions; d++) {
                    const int64_t at = k * dimensions + d;
                    const double moving = fix_zero && k == 0 ? 0 : gradient[at];
                    share[at] = paid[k] > 0 ? moving / paid[k] : 0;
                    by_before[at] = paid[k] > 0 ? 0 : moving;
                }
            to_single(share, palette, tables + 2 * palette);
            failed = failed || run_vector_pass(fork, &pass, step == last ? OUTPUT_GRADIENTS : UPDATE_GRADIENTS);
            for (int64_t k = 0; k < clusters; k++)
                for (int64_t d = 0; d < dimensions; d++)
                    gradient[k * dimensions + d] =
                        by_before[k * dimensions + d] + 2 / temperature * pass.sums[k * columns + 1 + d];
        }
    }
    free(share);
    free(by_before);
    leave(&pass, tables);
    return failed;
}

/* Moves centroids to the means of the vectors that are nearest to them, so many times, and puts the last means in the
place of those vectors, unless output is NULL. palettes: (groups, clusters, dimensions), the first; become the last.
inertia: of each group, the sum of squared distances before the last move. */
EXPORT int assign_vectors(Fork fork, int64_t parts, const float *weight, int64_t groups, int64_t chunks,
                          int64_t dimensions, int64_t row, int64_t clusters, int64_t iterations,
                          double zero_preference, int64_t fix_zero, int64_t skip_zeros, double *palettes,
                          double *inertia, float *output)
{
    const int64_t palette = clusters * dimensions, size = chunks * dimensions * row;
    VectorPass pass = begin(parts, chunks, dimensions, row, clusters, 1, 0, zero_preference, skip_zeros);
    float *tables;
    double *counts = malloc((size_t)clusters * sizeof(double));
    pass.indices = malloc((size_t)(chunks * row));
    int failed = make_room(&pass, &tables) || !pass.indices || !counts;
    for (int64_t group = 0; group < groups && !failed; group++) {
        double *own = palettes + group * palette;
        pass.weight = weight + group * size;
        for (int64_t step = 0; step < iterations && !failed; step++) {
            to_single(own, palette, tables);
            pass.results = NULL;
            failed = run_vector_pass(fork, &pass, ASSIGN);
            update(&pass, clusters, 0, fix_zero, own, own, counts);
            inertia[group] = pass.totals[0];
        }
        if (!output)
            continue;
        to_single(own, palette, tables + palette);
        pass.results = output + group * size;
        failed = failed || run_vector_pass(fork, &pass, LOOK_UP);
    }
    free(counts);
    free(pass.indices);
    leave(&pass, tables);
    return failed;
}

#endif
