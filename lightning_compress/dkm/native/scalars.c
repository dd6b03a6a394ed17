/* Differentiable k-means of scalars on equal panels: whole clusterings of a weight, and their derivatives.

What scalars.py makes of many calls for a layer, in one: small layers cost calls, not arithmetic. Formulas and layout are
those of attention.py, grid.py and panels.py, to which what equal panels do not resolve is left. */

#include "passes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POINTS 8                /* As in grid.py, and so on. */
#define USUAL_BINS 16384
#define LEAST_BINS 64
#define MOST_BINS 512
#define NARROWEST (1.0 / (1 << 20))
#define UNIFORM_SIZE (1 << 19)  /* As in panels.py, and so on. */
#define MOST_UNIFORM_PANELS 512
#define EQUAL_WIDTH 1.75
#define SAFETY 1.25
#define MOST_LAYOUTS 4
#define LEAST_SHARE 1e-14       /* As in attention.py. */
#define LEAST_WEIGHTS (1 << 15) /* Weights and elements of an attention matrix worth a thread. */
#define LEAST_ATTENTION (1 << 13)

enum { DECLINED = -1, ONE_BY_ONE = 0 }; /* In the place of a number of panels. */
enum { SUM_UP, EVALUATE, OUTPUT_GRADIENTS, UPDATE_GRADIENTS };

/* A weight of `groups` times `count` scalars, and what is done with it. */
typedef struct {
    Fork fork;
    int64_t threads;
    const float *weight;
    int64_t groups, count, clusters;
    double temperature, floor, zero_preference;
    int64_t fix_zero, skip_zeros;
} Scalars;

/* Equal panels of each group. points: (groups, size of points), or of scalars one by one. */
typedef struct {
    int64_t panels, bins, points_size;
    double *starts, *steps, *points, *at_edges;
} Panels;

static int64_t parts_for(int64_t threads, int64_t work, int64_t least)
{
    const int64_t most = work / least < threads ? work / least : threads;
    return most > 1 ? most : 1;
}

static int by_value(const void *one, const void *other)
{
    const double difference = *(const double *)one - *(const double *)other;
    return difference > 0 ? 1 : difference < 0 ? -1 : 0;
}

/* The greatest gap between neighbouring centroids whose switch lies within the range of a group. */
static double greatest_gap(const double *centroids, int64_t clusters, double low, double high, double *room)
{
    double gap = 0;
    memcpy(room, centroids, (size_t)clusters * sizeof(double));
    qsort(room, (size_t)clusters, sizeof(double), by_value);
    for (int64_t k = 1; k < clusters; k++)
        if (room[k] > low && room[k - 1] < high && room[k] - room[k - 1] > gap)
            gap = room[k] - room[k - 1];
    return gap;
}

/* Panels that palettes from one iteration to another need on the widest group, as many as are needed exactly. */
static double panels_for(const Scalars *scalars, const double *trace, int64_t first, int64_t last, const double *low,
                         const double *high, double *room)
{
    double gap = 0, width = 0;
    for (int64_t group = 0; group < scalars->groups; group++) {
        width = high[group] - low[group] > width ? high[group] - low[group] : width;
        for (int64_t step = first; step < last; step++) {
            const double *own = trace + (step * scalars->groups + group) * scalars->clusters;
            const double found = greatest_gap(own, scalars->clusters, low[group], high[group], room);
            gap = found > gap ? found : gap;
        }
    }
    const double rate =
        2 / scalars->temperature * sqrt(gap * gap / 4 + scalars->temperature / 2) / EQUAL_WIDTH;
    return width > 1e-30 && width < 1e30 ? width * rate : INFINITY;
}

/* Chebyshev points of the second kind on [0, 1]. */
static void find_nodes(double *nodes)
{
    for (int k = 0; k < POINTS; k++)
        nodes[k] = (1 - cos(3.141592653589793 * k / (POINTS - 1))) / 2;
}

/* Lagrange polynomials of a panel's points at the edges of its bins, (POINTS, bins + 1). */
static void find_edges(int64_t bins, double *at_edges)
{
    double nodes[POINTS];
    find_nodes(nodes);
    for (int k = 0; k < POINTS; k++)
        for (int64_t edge = 0; edge <= bins; edge++) {
            double product = 1;
            for (int j = 0; j < POINTS; j++)
                product *= j == k ? 1 : ((double)edge / (double)bins - nodes[j]) / (nodes[k] - nodes[j]);
            at_edges[k * (bins + 1) + edge] = product;
        }
}

static void lay_points(const Scalars *scalars, const Panels *grid)
{
    double nodes[POINTS];
    find_nodes(nodes);
    for (int64_t group = 0; group < scalars->groups; group++)
        for (int64_t i = 0; i < grid->points_size; i++) {
            const double at = (double)(i / POINTS) + nodes[i % POINTS];
            grid->points[group * grid->points_size + i] =
                grid->starts[group] + grid->steps[group] * (double)grid->bins * at;
        }
}

static void free_panels(Panels *grid)
{
    free(grid->points);
    free(grid->at_edges);
}

/* Panels of a known number, and where they begin unless that is known. Returns 1 where there was no memory. */
static int make_panels(const Scalars *scalars, int64_t panels, int64_t bins, const double *low, const double *high,
                       double *starts, double *steps, Panels *grid)
{
    const int64_t size = panels ? panels * POINTS : scalars->count;
    *grid = (Panels){panels, bins, size, starts, steps, NULL, NULL};
    grid->points = malloc((size_t)(scalars->groups * size) * sizeof(double));
    grid->at_edges = malloc((size_t)(POINTS * (bins + 1)) * sizeof(double));
    if (!grid->points || !grid->at_edges)
        return 1;
    if (!panels) {
        for (int64_t i = 0; i < scalars->groups * size; i++)
            grid->points[i] = scalars->weight[i];
        return 0;
    }
    const double bins_of_group = (double)(panels * bins);
    for (int64_t group = 0; group < scalars->groups && low; group++) {
        const double farthest = fmax(fabs(low[group]), fabs(high[group]));
        const double width = fmax(high[group] - low[group], farthest * NARROWEST);
        steps[group] = fmax(width, 1.1754943508222875e-38 * bins_of_group) / (bins_of_group - 1);
        starts[group] = low[group] - steps[group] / 2;
    }
    find_edges(bins, grid->at_edges);
    lay_points(scalars, grid);
    return 0;
}

/* What weights carry, ones or values, on the points, (groups, points). */
static int carry(const Scalars *scalars, const Panels *grid, const float *values, double *on_points)
{
    if (!grid->panels) {
        for (int64_t i = 0; i < scalars->groups * scalars->count; i++)
            on_points[i] = scalars->skip_zeros && scalars->weight[i] == 0 ? 0 : values ? values[i] : 1;
        return 0;
    }
    const int64_t size = grid->panels * grid->bins, groups = scalars->groups;
    const int64_t parts = parts_for(scalars->threads, groups * scalars->count, LEAST_WEIGHTS);
    double *tables = malloc((size_t)(2 * parts * groups * size) * sizeof(double));
    const int failed = !tables || count_places(scalars->fork, parts, scalars->weight, values, groups, scalars->count,
                                               grid->starts, grid->steps, size, scalars->skip_zeros, tables) ||
                       gather(tables, groups, grid->panels, grid->bins, grid->starts, grid->steps, grid->at_edges,
                              on_points);
    free(tables);
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
    const double least = grid->panels ? mass * LEAST_SHARE : 0;
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
    int failed = 0;
    if (grid->panels) {
        const int64_t parts = parts_for(scalars->threads, all, LEAST_WEIGHTS), functions = second ? 2 : 1;
        float *intercepts = malloc((size_t)(2 * functions * groups * size) * sizeof(float));
        float *slopes = intercepts + functions * groups * size;
        failed = !intercepts || chords(first, groups, grid->panels, grid->bins, grid->starts, grid->steps,
                                       grid->at_edges, intercepts, slopes);
        if (second)
            failed = failed || chords(second, groups, grid->panels, grid->bins, grid->starts, grid->steps,
                                      grid->at_edges, intercepts + groups * size, slopes + groups * size);
        if (second)
            failed = failed || chain(scalars->fork, parts, scalars->weight, upstream, groups, scalars->count,
                                     grid->starts, grid->steps, size, intercepts, slopes, results);
        else
            failed = failed || interpolate(scalars->fork, parts, scalars->weight, groups, scalars->count,
                                           grid->starts, grid->steps, size, intercepts, slopes, results);
        free(intercepts);
    } else
        for (int64_t i = 0; i < all; i++)
            results[i] = (float)(second ? first[i] * upstream[i] + second[i] : first[i]);
    for (int64_t i = 0; scalars->skip_zeros && i < all; i++)
        results[i] = scalars->weight[i] == 0 ? 0 : results[i];
    return failed;
}

/* Clusters a weight softly; low and high: its range in each group.

trace, attended, done: as for `cluster_vectors`, with one dimension. shape: the number of panels, or DECLINED or
ONE_BY_ONE, and of bins on each. starts, steps: of the bins of each group. masses: room for as many as equal panels can
need; what was needed comes first, (groups, points). */
EXPORT int cluster_scalars(Fork fork, int64_t threads, const float *weight, int64_t groups, int64_t count,
                           const double *low, const double *high, int64_t clusters, int64_t iterations, double epsilon,
                           double temperature, double floor, double zero_preference, int64_t fix_zero,
                           int64_t skip_zeros, double *trace, double *attended, int64_t *done, int64_t *shape,
                           double *starts, double *steps, double *masses, float *output)
{
    const Scalars scalars = {fork,  threads,         weight,   groups,    count, clusters, temperature,
                             floor, zero_preference, fix_zero, skip_zeros};
    double *room = malloc((size_t)clusters * sizeof(double)), *function = NULL;
    double *sums = malloc((size_t)(threads * (2 * clusters + 1)) * sizeof(double));
    Panels grid = {0};
    int failed = !room || !sums;
    int64_t known = 1;
    shape[0] = DECLINED;
    for (int layout = 0; layout < MOST_LAYOUTS && shape[0] == DECLINED && !failed; layout++) {
        const double needed = panels_for(&scalars, trace, 0, known, low, high, room);
        const double most = fmin(MOST_UNIFORM_PANELS, (double)UNIFORM_SIZE / (double)(POINTS * clusters));
        if (!(needed <= most))
            break;
        int64_t panels = needed > 1 ? (int64_t)ceil(needed) : 1;
        int64_t bins = (count < USUAL_BINS ? count : USUAL_BINS) / panels;
        bins = bins < LEAST_BINS ? LEAST_BINS : bins > MOST_BINS ? MOST_BINS : bins;
        if (count <= panels * POINTS)
            panels = ONE_BY_ONE;
        failed = make_panels(&scalars, panels, bins, low, high, starts, steps, &grid);
        function = failed ? NULL : malloc((size_t)(groups * grid.points_size) * sizeof(double));
        failed = !function || carry(&scalars, &grid, NULL, masses);
        for (int64_t group = 0; group < groups && !failed; group++)
            failed = cluster_group(&scalars, &grid, group, iterations, epsilon, masses, trace, attended, done, sums,
                                   sums + threads * 2 * clusters, function + group * grid.points_size);
        /* Palettes that move away from those that panels were laid out for are laid out for anew. */
        known = iterations;
        if (!failed && (panels == ONE_BY_ONE || known == 1 ||
                        panels_for(&scalars, trace, 1, known, low, high, room) <= SAFETY * (double)panels)) {
            failed = look_up_weights(&scalars, &grid, function, NULL, NULL, output);
            shape[0] = panels;
            shape[1] = bins;
        }
        free(function);
        free_panels(&grid);
    }
    free(room);
    free(sums);
    return failed;
}

/* Derivatives of a loss by the weight and by the first palettes, from those by what `cluster_scalars` returned. */
EXPORT int differentiate_scalars(Fork fork, int64_t threads, const float *weight, const float *upstream,
                                 int64_t groups, int64_t count, int64_t clusters, double temperature, double floor,
                                 double zero_preference, int64_t fix_zero, int64_t skip_zeros, const double *trace,
                                 const double *attended, const int64_t *done, const int64_t *shape, double *starts,
                                 double *steps, const double *masses, const double *by_last, float *by_weight,
                                 double *by_first)
{
    const Scalars scalars = {fork,  threads,         weight,   groups,    count, clusters, temperature,
                             floor, zero_preference, fix_zero, skip_zeros};
    const int64_t stride = groups * clusters;
    Panels grid = {0};
    int failed = make_panels(&scalars, shape[0], shape[1], NULL, NULL, starts, steps, &grid);
    const int64_t size = grid.points_size, all = groups * size;
    double *room = malloc((size_t)(4 * all + threads * (2 * clusters + 1) + 3 * clusters) * sizeof(double));
    if (failed || !room) {
        free(room);
        free_panels(&grid);
        return 1;
    }
    double *carried = room, *slope = carried + all, *moving = slope + all, *part = moving + all;
    double *sums = part + all, *total = sums + threads * 2 * clusters, *share = total + threads;
    double *offset = share + clusters, *earlier = offset + clusters;
    memset(moving, 0, (size_t)all * sizeof(double));
    failed = carry(&scalars, &grid, upstream, carried);
    for (int64_t group = 0; group < groups && !failed; group++) {
        const int64_t last = done[group] - 1, at = group * size;
        const double *points = grid.points + at;
        double *gradient = by_first + group * clusters;
        for (int64_t step = last; step >= 0 && !failed; step--) {
            const double *before = trace + step * stride + group * clusters, *after = before + stride;
            const double *paid = attended + step * stride + group * clusters;
            memset(earlier, 0, (size_t)clusters * sizeof(double));
            if (step == last) {
                failed = attend_group_once(&scalars, OUTPUT_GRADIENTS, points, size, carried + at, before, after,
                                           NULL, sums, total, slope + at);
                for (int64_t k = 0; k < clusters; k++) {
                    gradient[k] = by_last[group * clusters + k] + sums[2 * k];
                    earlier[k] = sums[2 * k + 1];
                }
            }
            for (int64_t k = 0; k < clusters; k++) {
                const double felt = fix_zero && k == 0 ? 0 : gradient[k];
                share[k] = paid[k] > 0 ? felt / paid[k] : 0;
                offset[k] = share[k] * after[k];
                earlier[k] += paid[k] > 0 ? 0 : felt;
            }
            failed = failed || attend_group_once(&scalars, UPDATE_GRADIENTS, points, size, masses + at, before, share,
                                                 offset, sums, total, part);
            for (int64_t i = 0; i < size; i++)
                moving[at + i] += part[i];
            for (int64_t k = 0; k < clusters; k++)
                gradient[k] = earlier[k] + sums[2 * k];
        }
    }
    failed = failed || look_up_weights(&scalars, &grid, slope, moving, upstream, by_weight);
    free(room);
    free_panels(&grid);
    return failed;
}
