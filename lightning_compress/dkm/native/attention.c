/* Passes over the points of a grid: their attention to centroids, summed up, evaluated, and differentiated. */

#include "attention.h"

#include <stdlib.h>

/* A pass over the points of G groups, (G, size), and their attention to centroids, (G, K).

carried: masses or upstream gradients, (G, size). first, second: palettes, (G, K). sums: for each part, (G, K, 2), and
total, (G,), the first the result. on_points: results at the points. */
typedef struct {
    int64_t next, parts, failed;
    const double *points, *carried;
    int64_t groups, size;
    const double *centroids, *first, *second;
    int64_t clusters;
    double temperature, floor, zero_preference;
    double *sums, *total, *on_points;
} Attention;

INLINE void attend_group(const Attention *pass, PassKind kind, int64_t part, int64_t group, double *soft, int64_t *seen)
{
    const int64_t blocks = (pass->size + BLOCK - 1) / BLOCK, own = group * pass->clusters;
    const int64_t start = blocks * part / pass->parts, end = blocks * (part + 1) / pass->parts;
    const double *point = pass->points + group * pass->size, *before = pass->centroids + own;
    const double *first = pass->first ? pass->first + own : NULL, *second = pass->second ? pass->second + own : NULL;
    const Palette palette = {pass->clusters, before, pass->temperature, pass->floor, pass->zero_preference};
    const double last = point[pass->size - 1], middle = (point[0] + last) / 2;
    double *sums = pass->sums + 2 * (part * pass->groups * pass->clusters + own);
    double near = 0, zeroth = 0, moment = 0, held = 0;
    for (int64_t k = 0; first && k < pass->clusters; k++)
        held += pass->floor * first[k];
    for (int64_t index = start; index < end; index++) {
        const int64_t begin = index * BLOCK, length = pass->size - begin;
        Block block = {.soft = soft, .seen = seen, .floor = pass->floor, .factor = 2 / pass->temperature};
        double result[BLOCK];
        load(point + begin, length, last, block.x);
        if (pass->carried)
            load(pass->carried + group * pass->size + begin, length, 0, block.carried);
        block.rows = pay(&palette, middle, block.x, soft, seen, block.nearness);
        for (int i = 0; i < BLOCK; i++)
            result[i] = held;
        if (kind == SUM_UP) {
            sum_up_block(&block, sums);
            for (int i = 0; i < BLOCK; i++)
                near += block.carried[i] * block.nearness[i];
        } else if (kind == EVALUATE)
            evaluate_block(&block, first, result);
        else if (kind == OUTPUT_GRADIENTS)
            output_block(&block, before, first, result, sums);
        else
            update_block(&block, before, first, second, result, sums);
        sum_floor(&block, &zeroth, &moment);
        if (kind != SUM_UP)
            memcpy(pass->on_points + group * pass->size + begin, result,
                   (size_t)(length < BLOCK ? length : BLOCK) * sizeof(double));
    }
    for (int64_t k = 0; k < pass->clusters; k++) {
        if (kind == SUM_UP || kind == OUTPUT_GRADIENTS)
            sums[2 * k] += zeroth;
        if (kind == SUM_UP)
            sums[2 * k + 1] += moment;
    }
    pass->total[part * pass->groups + group] += near;
}

INLINE void attend(Attention *pass, PassKind kind)
{
    double *soft = malloc((size_t)pass->clusters * BLOCK * sizeof(double));
    int64_t *seen = malloc((size_t)pass->clusters * sizeof(int64_t));
    if (!soft || !seen)
        pass->failed = 1;
    for (int64_t part = TAKE(&pass->next); part < pass->parts; part = TAKE(&pass->next))
        for (int64_t group = 0; group < pass->groups && soft && seen; group++)
            attend_group(pass, kind, part, group, soft, seen);
    free(soft);
    free(seen);
}

FAST static void sum_up_parts(void *pass) { attend(pass, SUM_UP); }
FAST static void evaluate_parts(void *pass) { attend(pass, EVALUATE); }
FAST static void output_parts(void *pass) { attend(pass, OUTPUT_GRADIENTS); }
FAST static void update_parts(void *pass) { attend(pass, UPDATE_GRADIENTS); }

/* Makes a pass of one kind over all points. sums: (parts, G, K, 2), total: (parts, G), the first the result. */
EXPORT int attend_points(Fork fork, int64_t parts, int64_t kind, const double *points, const double *carried,
                         int64_t groups, int64_t size, const double *centroids, const double *first,
                         const double *second, int64_t clusters, double temperature, double floor,
                         double zero_preference, double *sums, double *total, double *on_points)
{
    memset(sums, 0, (size_t)(2 * parts * groups * clusters) * sizeof(double));
    memset(total, 0, (size_t)(parts * groups) * sizeof(double));
    static void (*const tasks[])(void *) = {sum_up_parts, evaluate_parts, output_parts, update_parts};
    Attention pass = {0, parts, 0, points, carried, groups, size, centroids, first, second, clusters, temperature,
                      floor, zero_preference, sums, total, on_points};
    run(fork, parts, tasks[kind], &pass);
    for (int64_t part = 1; part < parts; part++) {
        for (int64_t i = 0; i < 2 * groups * clusters; i++)
            sums[i] += sums[2 * part * groups * clusters + i];
        for (int64_t i = 0; i < groups; i++)
            total[i] += total[part * groups + i];
    }
    return (int)pass.failed;
}
