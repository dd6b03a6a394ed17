/* Differentiable k-means of scalars: whole clusterings of a weight, and their derivatives. The formulas are those of
attention.py. */

#include "layout.h"
#include "scalars.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_LAYOUTS 4          /* As in scalars.py. */
#define LEAST_SHARE 1e-14       /* As in attention.py. */
#define LEAST_ATTENTION (1 << 13) /* Elements of an attention matrix worth a thread. */

/* A weight of `groups` times `count` scalars, and what is done with it. */
typedef struct {
    Fork fork;
    int64_t threads;
    const float *weight;
    int64_t groups, count, clusters;
    double temperature, floor, zero_preference;
    int64_t fix_zero, skip_zeros;
} Scalars;

static Scalars scalars_of(Fork fork, int64_t threads, const Layer *layer)
{
    return (Scalars){fork,
                     threads,
                     layer->weight,
                     layer->groups,
                     layer->count,
                     layer->clusters,
                     layer->temperature,
                     layer->floor,
                     layer->zero_preference,
                     layer->fix_zero,
                     layer->skip_zeros};
}

/* Where the numbers of a layer lie in its memory. */
typedef struct {
    double *trace, *attended, *starts, *steps, *low, *high;
} Numbers;

static Numbers numbers_of(const Layer *layer)
{
    const int64_t palettes = layer->groups * layer->clusters;
    Numbers at;
    at.trace = layer->numbers;
    at.attended = at.trace + (layer->iterations + 1) * palettes;
    at.starts = at.attended + layer->iterations * palettes;
    at.steps = at.starts + layer->groups;
    at.low = at.steps + layer->groups;
    at.high = at.low + layer->groups;
    return at;
}

/* What weights carry, ones or values, on the points, (groups, points). */
static int carry(const Scalars *scalars, const Panels *grid, const float *values, double *on_points)
{
    const int64_t groups = scalars->groups, all = groups * scalars->count, size = grid->panels * grid->bins;
    if (grid->kind == ONE_BY_ONE) {
        for (int64_t i = 0; i < all; i++)
            on_points[i] = scalars->skip_zeros && scalars->weight[i] == 0 ? 0 : values ? values[i] : 1;
        return 0;
    }
    const int64_t parts = parts_for(scalars->threads, all, LEAST_WEIGHTS);
    double *tables = malloc((size_t)(2 * parts * groups * size) * sizeof(double));
    float *own = NULL;
    int failed = !tables;
    if (scalars->skip_zeros) {
        own = malloc((size_t)all * sizeof(float));
        failed |= !own;
        for (int64_t i = 0; i < all && own; i++)
            own[i] = scalars->weight[i] == 0 ? 0 : values ? values[i] : 1;
    }
    failed = failed ||
             count_places(scalars->fork, parts, grid->kind == STEEP ? grid->places : scalars->weight, own ? own : values,
                          groups, scalars->count, grid->starts, grid->steps, size, tables) ||
             gather(tables, groups, grid->panels, grid->bins, grid->starts, grid->steps, grid->at_edges, on_points);
    free(tables);
    free(own);
    return failed;
}

/* A pass over the points of one group; sums: for each part (clusters, 2), and total. */
static int attend_group_once(const Scalars *scalars, int64_t kind, const double *points, int64_t size,
                             const double *carried, const double *before, const double *first, const double *second,
                             double *sums, double *total, double *on_points)
{
    const int64_t parts = parts_for(scalars->threads, size * scalars->clusters, LEAST_ATTENTION);
    return attend_points(scalars->fork, parts, kind, points, carried, 1, size, before, first, second,
                         scalars->clusters, scalars->temperature, scalars->floor, scalars->zero_preference, sums,
                         total, on_points);
}

/* Clusters one group on its points; the result f goes to `function`. */
static int cluster_group(const Scalars *scalars, const Panels *grid, int64_t group, int64_t iterations, double epsilon,
                         const double *masses, double *trace, double *attended, int64_t *done, double *sums,
                         double *total, double *function)
{
    const int64_t size = grid->points_size, clusters = scalars->clusters, stride = scalars->groups * clusters;
    const double *points = grid->points + group * size, *own = masses + group * size;
    const double middle = (points[0] + points[size - 1]) / 2;
    double mass = 0, second = 0, previous = 0;
    for (int64_t i = 0; i < size; i++) {
        mass += own[i];
        second += own[i] * (points[i] - middle) * (points[i] - middle);
    }
    const double least = grid->kind == ONE_BY_ONE ? 0 : mass * LEAST_SHARE;
    int64_t step = 0;
    for (int going_on = 1; going_on; step++) {
        double *before = trace + step * stride + group * clusters, *after = before + stride;
        double *paid = attended + step * stride + group * clusters;
        if (attend_group_once(scalars, SUM_UP, points, size, own, before, NULL, NULL, sums, total, function))
            return 1;
        for (int64_t k = 0; k < clusters; k++) {
            /* A centroid that no weight attends to stays where it is. */
            paid[k] = sums[2 * k] > least ? sums[2 * k] : 0;
            after[k] = paid[k] > 0 ? sums[2 * k + 1] / paid[k] : before[k];
        }
        if (scalars->fix_zero)
            after[0] = 0;
        const double inertia = second - scalars->temperature * *total;
        going_on = step + 1 < iterations && (epsilon < 0 || !previous || fabs(inertia - previous) > epsilon);
        previous = inertia;
    }
    done[group] = step;
    const double *last = trace + step * stride + group * clusters;
    for (int64_t left = step + 1; left <= iterations; left++)
        memcpy(trace + left * stride + group * clusters, last, (size_t)clusters * sizeof(double));
    return attend_group_once(scalars, EVALUATE, points, size, NULL, last - stride, last, NULL, sums, total, function);
}

/* Puts a function of the points, or first * upstream + second, in the place of every weight. */
static int look_up_weights(const Scalars *scalars, const Panels *grid, const double *first, const double *second,
                           const float *upstream, float *results)
{
    const int64_t groups = scalars->groups, all = groups * scalars->count, size = grid->panels * grid->bins;
    const float *places = grid->kind == STEEP ? grid->places : scalars->weight;
    int failed = 0;
    if (grid->kind != ONE_BY_ONE) {
        const int64_t parts = parts_for(scalars->threads, all, LEAST_WEIGHTS), stride = second ? 4 : 2;
        float *chords = malloc((size_t)(stride * groups * size) * sizeof(float));
        failed = !chords || find_chords(first, groups, grid->panels, grid->bins, grid->starts, grid->steps,
                                        grid->at_edges, stride, chords);
        if (second)
            failed = failed || find_chords(second, groups, grid->panels, grid->bins, grid->starts, grid->steps,
                                           grid->at_edges, stride, chords + 2);
        if (second)
            failed = failed || chain(scalars->fork, parts, places, upstream, groups, scalars->count, grid->starts,
                                     grid->steps, size, chords, results);
        else
            failed = failed || interpolate(scalars->fork, parts, places, groups, scalars->count, grid->starts,
                                           grid->steps, size, chords, results);
        free(chords);
    } else
        for (int64_t i = 0; i < all; i++)
            results[i] = (float)(second ? first[i] * upstream[i] + second[i] : first[i]);
    for (int64_t i = 0; scalars->skip_zeros && i < all; i++)
        results[i] = scalars->weight[i] == 0 ? 0 : results[i];
    return failed;
}

/* Bits of a float as a whole number of the same order; those of infinity and NaN lie at both ends. */
INLINE int32_t ordered_bits(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits ^ ((bits >> 31) & INT32_MAX);
}

INLINE double ordered_float(int32_t ordered)
{
    const int32_t bits = ordered ^ ((ordered >> 31) & INT32_MAX);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define INFINITE_BITS 0x7f800000

/* The least and the greatest scalar of each group. Returns 1 if one is NaN or infinite. */
FAST static int find_range(const float *weight, int64_t groups, int64_t count, double *lowest, double *highest)
{
    for (int64_t group = 0; group < groups; group++) {
        const float *own = weight + group * count;
        int32_t low = INT32_MAX, high = INT32_MIN;
        for (int64_t i = 0; i < count; i++) {
            const int32_t bits = ordered_bits(own[i]);
            low = bits < low ? bits : low;
            high = bits > high ? bits : high;
        }
        if (high >= INFINITE_BITS || low <= -INFINITE_BITS - 1)
            return 1;
        lowest[group] = ordered_float(low);
        highest[group] = ordered_float(high);
    }
    return 0;
}

Status cluster_layer(Fork fork, int64_t threads, Layer *layer)
{
    const Scalars scalars = scalars_of(fork, threads, layer);
    const Numbers at = numbers_of(layer);
    const int64_t groups = layer->groups, count = layer->count, clusters = layer->clusters;
    const int64_t iterations = layer->iterations, palettes = (iterations + 1) * groups * clusters;
    const int64_t parts = parts_for(threads, groups * count, LEAST_WEIGHTS);
    const int64_t most = most_panels(count);
    if (find_range(layer->weight, groups, count, at.low, at.high))
        return NOT_FINITE;
    memcpy(at.trace, layer->palettes, (size_t)(groups * clusters) * sizeof(double));
    Needs needs = {groups, count, clusters, 1, at.low, at.high, at.trace, layer->temperature};
    double *edges = layer->room, *masses = edges + groups * (most + 2);
    double *sums = malloc((size_t)(threads * (2 * clusters + 1) + palettes) * sizeof(double));
    double *planned = sums + threads * (2 * clusters + 1);
    int failed = !sums, enough = 0;
    for (int layout = 0; layout <= MOST_LAYOUTS && !enough && !failed; layout++) {
        Panels grid = {ONE_BY_ONE, 0, 0, 0, at.starts, at.steps, edges, NULL, NULL, layer->places};
        const int64_t planned_known = needs.known;
        memcpy(planned, at.trace, (size_t)(palettes - groups * clusters) * sizeof(double));
        /* Palettes that move away from those that panels were laid out for are laid out for anew; in the end scalars
        are taken one by one. */
        failed = layout < MOST_LAYOUTS && choose_panels(&needs, &grid);
        failed = failed || fill_panels(fork, parts, layer->weight, groups, count, 0, &grid);
        const int64_t all = groups * grid.points_size;
        /* Of scalars one by one there may be more than panels have points. */
        const int64_t own = grid.kind == ONE_BY_ONE ? all : 0;
        double *function = failed ? NULL : malloc((size_t)(all + own) * sizeof(double));
        double *carried = own ? function + all : masses;
        failed = !function || carry(&scalars, &grid, NULL, carried);
        for (int64_t group = 0; group < groups && !failed; group++)
            failed = cluster_group(&scalars, &grid, group, iterations, layer->epsilon, carried, at.trace, at.attended,
                                   layer->updates, sums, sums + threads * 2 * clusters,
                                   function + group * grid.points_size);
        needs.known = iterations;
        enough = !failed && resolves(&needs, &grid, planned, planned_known);
        failed = failed || (enough && look_up_weights(&scalars, &grid, function, NULL, NULL, layer->output));
        layer->kind = grid.kind;
        layer->panels = grid.panels;
        layer->bins = grid.bins;
        free(function);
        free_panels(&grid);
    }
    free(sums);
    if (failed)
        return NO_MEMORY;
    memcpy(layer->updated, at.trace + iterations * groups * clusters, (size_t)(groups * clusters) * sizeof(double));
    const int64_t kept_edges = layer->kind == STEEP ? groups * (layer->panels + 1) : 0;
    const int64_t kept_masses = layer->kind == ONE_BY_ONE ? 0 : groups * layer->panels * POINTS;
    memmove(edges + kept_edges, masses, (size_t)kept_masses * sizeof(double));
    layer->kept = kept_edges + kept_masses;
    return DONE;
}

Status differentiate_layer(Fork fork, int64_t threads, Layer *layer)
{
    const Scalars scalars = scalars_of(fork, threads, layer);
    const Numbers at = numbers_of(layer);
    const int64_t groups = layer->groups, count = layer->count, clusters = layer->clusters;
    const int64_t stride = groups * clusters, parts = parts_for(threads, groups * count, LEAST_WEIGHTS);
    const double *masses = layer->room + (layer->kind == STEEP ? groups * (layer->panels + 1) : 0);
    Panels grid = {(Kind)layer->kind, layer->panels, layer->bins, 0, at.starts, at.steps, layer->room, NULL, NULL,
                   layer->places};
    int failed = fill_panels(fork, parts, layer->weight, groups, count, 1, &grid);
    const int64_t size = grid.points_size, all = groups * size;
    double *room = malloc((size_t)(5 * all + threads * (2 * clusters + 1) + 3 * clusters) * sizeof(double));
    if (failed || !room) {
        free(room);
        free_panels(&grid);
        return NO_MEMORY;
    }
    double *carried = room, *slope = carried + all, *moving = slope + all, *part = moving + all;
    double *ones = part + all, *sums = ones + all, *total = sums + threads * 2 * clusters, *share = total + threads;
    double *offset = share + clusters, *earlier = offset + clusters;
    memset(moving, 0, (size_t)all * sizeof(double));
    failed = carry(&scalars, &grid, layer->upstream, carried);
    if (grid.kind == ONE_BY_ONE) {
        failed = failed || carry(&scalars, &grid, NULL, ones);
        masses = ones;
    }
    for (int64_t group = 0; group < groups && !failed; group++) {
        const int64_t last = layer->updates[group] - 1, own = group * size;
        const double *points = grid.points + own;
        double *gradient = layer->by_palettes + group * clusters;
        for (int64_t step = last; step >= 0 && !failed; step--) {
            const double *before = at.trace + step * stride + group * clusters, *after = before + stride;
            const double *paid = at.attended + step * stride + group * clusters;
            memset(earlier, 0, (size_t)clusters * sizeof(double));
            if (step == last) {
                failed = attend_group_once(&scalars, OUTPUT_GRADIENTS, points, size, carried + own, before, after,
                                           NULL, sums, total, slope + own);
                for (int64_t k = 0; k < clusters; k++) {
                    gradient[k] = layer->by_updated[group * clusters + k] + sums[2 * k];
                    earlier[k] = sums[2 * k + 1];
                }
            }
            for (int64_t k = 0; k < clusters; k++) {
                const double felt = layer->fix_zero && k == 0 ? 0 : gradient[k];
                share[k] = paid[k] > 0 ? felt / paid[k] : 0;
                offset[k] = share[k] * after[k];
                earlier[k] += paid[k] > 0 ? 0 : felt;
            }
            failed = failed || attend_group_once(&scalars, UPDATE_GRADIENTS, points, size, masses + own, before, share,
                                                 offset, sums, total, part);
            for (int64_t i = 0; i < size; i++)
                moving[own + i] += part[i];
            for (int64_t k = 0; k < clusters; k++)
                gradient[k] = earlier[k] + sums[2 * k];
        }
    }
    failed = failed || look_up_weights(&scalars, &grid, slope, moving, layer->upstream, layer->by_weight);
    free(room);
    free_panels(&grid);
    return failed ? NO_MEMORY : DONE;
}
