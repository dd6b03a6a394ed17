/* As panels.py, which explains it. */

#include "edges.h"
#include "quads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define USUAL_BINS 16384
#define LEAST_BINS 64
#define MOST_BINS 512
#define WEIGHTS_OF_BIN 4
#define NARROWEST (1.0 / (1 << 20))
#define UNIFORM_SIZE (1 << 19)
#define MOST_UNIFORM_PANELS 512
#define EQUAL_WIDTH 1.75
#define DRIFT 3.0

static double greatest_width(const Needs *needs)
{
    double width = 0;
    for (int64_t group = 0; group < needs->groups; group++)
        width = fmax(width, needs->high[group] - needs->low[group]);
    return width;
}

/* Greatest rate at which attention to palettes from one iteration on changes within the range. */
static double greatest_rate(const Needs *needs, int64_t first, double *ordered)
{
    double gap = 0;
    for (int64_t group = 0; group < needs->groups; group++)
        for (int64_t step = first; step < needs->known; step++) {
            sorted_palette(needs, needs->trace, step, group, ordered);
            /* A switch outside the range is not felt in it, but for its end. */
            for (int64_t k = 1; k < needs->clusters; k++)
                if (ordered[k] > needs->low[group] && ordered[k - 1] < needs->high[group])
                    gap = fmax(gap, ordered[k] - ordered[k - 1]);
        }
    return needs->clusters < 2 ? 0
                               : 2 / needs->temperature * sqrt(gap * gap / 4 + needs->temperature / 2) / EQUAL_WIDTH;
}

int choose_panels(const Needs *needs, Panels *grid)
{
    const double width = greatest_width(needs);
    double *ordered = malloc((size_t)needs->clusters * sizeof(double));
    if (!ordered)
        return 1;
    const double panels = width * greatest_rate(needs, 0, ordered);
    free(ordered);
    grid->kind = ONE_BY_ONE;
    if (!(width > 1e-30 && width < 1e30))
        return 0;
    /* A bin costs as much as the search for the panels, around switches, of a few weights. */
    const double worth = fmax((double)needs->count / WEIGHTS_OF_BIN, USUAL_BINS) / LEAST_BINS;
    const double most = fmin(MOST_UNIFORM_PANELS, (double)UNIFORM_SIZE / (double)(POINTS * needs->clusters));
    if (!(panels <= fmin(most, worth)))
        return choose_steep(needs, grid);
    grid->panels = panels > 1 ? (int64_t)ceil(panels) : 1;
    if (needs->count <= grid->panels * POINTS)
        return 0;
    grid->kind = EQUAL;
    grid->bins = (needs->count < USUAL_BINS ? needs->count : USUAL_BINS) / grid->panels;
    grid->bins = grid->bins < LEAST_BINS ? LEAST_BINS : grid->bins > MOST_BINS ? MOST_BINS : grid->bins;
    const double bins = (double)(grid->panels * grid->bins);
    for (int64_t group = 0; group < needs->groups; group++) {
        const double farthest = fmax(fabs(needs->low[group]), fabs(needs->high[group]));
        const double range = fmax(needs->high[group] - needs->low[group], farthest * NARROWEST);
        grid->steps[group] = fmax(range, 1.1754943508222875e-38 * bins) / (bins - 1);
        grid->starts[group] = needs->low[group] - grid->steps[group] / 2;
    }
    return 0;
}

int resolves(const Needs *needs, const Panels *grid, const double *planned, int64_t planned_known)
{
    if (grid->kind == ONE_BY_ONE || needs->known == 1 || needs->clusters < 2)
        return 1;
    double *ordered = malloc((size_t)(2 * needs->clusters) * sizeof(double)), *other = ordered + needs->clusters;
    if (!ordered)
        return 0;
    int enough = 1;
    if (grid->kind == EQUAL)
        enough = greatest_width(needs) * greatest_rate(needs, 1, ordered) <= SAFETY * (double)grid->panels;
    for (int64_t step = 1; step < needs->known && grid->kind == STEEP; step++)
        for (int64_t group = 0; group < needs->groups; group++) {
            const int64_t as = step < planned_known ? step : planned_known - 1;
            sorted_palette(needs, needs->trace, step, group, ordered);
            sorted_palette(needs, planned, as, group, other);
            for (int64_t k = 1; k < needs->clusters; k++) {
                const double moved = fabs(other[k] + other[k - 1] - ordered[k] - ordered[k - 1]);
                enough &= moved * (ordered[k] - ordered[k - 1]) / needs->temperature <= DRIFT;
            }
        }
    free(ordered);
    return enough;
}

/* Chebyshev points of the second kind on [0, 1]. */
static void find_nodes(double *nodes)
{
    for (int k = 0; k < POINTS; k++)
        nodes[k] = (1 - cos(PI * k / (POINTS - 1))) / 2;
}

/* Lagrange polynomials of a panel's points at the edges of its bins, (POINTS, bins + 1). */
static void find_polynomials(int64_t bins, const double *nodes, double *at_edges)
{
    double weights[POINTS];
    for (int k = 0; k < POINTS; k++) {
        weights[k] = 1;
        for (int j = 0; j < POINTS; j++)
            weights[k] /= j == k ? 1 : nodes[k] - nodes[j];
    }
    for (int64_t edge = 0; edge <= bins; edge++) {
        double above[POINTS + 1], below = 1;
        above[POINTS] = 1;
        for (int k = POINTS - 1; k > 0; k--)
            above[k] = above[k + 1] * ((double)edge / (double)bins - nodes[k]);
        for (int k = 0; k < POINTS; k++) {
            at_edges[k * (bins + 1) + edge] = weights[k] * below * above[k + 1];
            below *= (double)edge / (double)bins - nodes[k];
        }
    }
}

#define CELLS 4096 /* Equal parts of a range, of which each knows its first panel. */
#define CHUNK 512  /* Scalars whose panels are found at once. */

/* A pass that finds the places of scalars on the steep panels of one group, in bins.

first: of each cell, its first panel; no cell has 2 * `half` edges after that. edges: as many at infinity follow. lines: of each panel, where it
begins and the bins that a unit of scalars crosses in it. */
typedef struct {
    int64_t next, parts;
    const float *weight, *edges, *lines;
    const int32_t *first;
    int64_t count, panels, half;
    float cell;
    float *places;
} Search;

INLINE int32_t cell_of(float weight, float start, float cell)
{
    const int32_t index = (int32_t)((weight - start) * cell);
    return index < 0 ? 0 : index > CELLS - 1 ? CELLS - 1 : index;
}

FAST static void search_parts(void *data)
{
    Search *search = data;
    const float *edges = search->edges, start = edges[0], cell = search->cell;
    const float most = (float)((double)(search->panels * STEEP_BINS) * (1 - 1.0 / (1 << 23)));
    int32_t panels[CHUNK];
    for (int64_t part = TAKE(&search->next); part < search->parts; part = TAKE(&search->next)) {
        const int64_t end = search->count * (part + 1) / search->parts;
        for (int64_t begin = search->count * part / search->parts; begin < end; begin += CHUNK) {
            const int64_t length = end - begin < CHUNK ? end - begin : CHUNK;
            const float *weight = search->weight + begin;
            for (int64_t i = 0; i < length; i++)
                panels[i] = search->first[cell_of(weight[i], start, cell)];
            for (int32_t half = (int32_t)search->half; half > 0; half /= 2)
                for (int64_t i = 0; i < length; i++)
                    panels[i] += weight[i] >= edges[panels[i] + half] ? half : 0;
            int64_t i = 0;
#ifdef HAS_QUADS
            for (; i + 4 <= length; i += 4) {
                Quad start_of, bins_of;
                take_pairs(search->lines, panels + i, &start_of, &bins_of);
                const Quad inside = within((quad_at(weight + i) - start_of) * bins_of, 0, STEEP_BINS);
                const Quad place = inside + floats_of(panels + i) * STEEP_BINS;
                *(Quad *)(search->places + begin + i) = within(place, 0, most);
            }
#endif
            for (; i < length; i++) {
                const float *line = search->lines + 2 * (int64_t)panels[i];
                float inside = (weight[i] - line[0]) * line[1];
                inside = inside < 0 ? 0 : inside > STEEP_BINS ? STEEP_BINS : inside;
                const float place = inside + (float)(panels[i] * STEEP_BINS);
                search->places[begin + i] = place < most ? place : most;
            }
        }
    }
}

static int find_places_of(Fork fork, int64_t parts, const float *weight, int64_t count, const double *edges,
                          int64_t panels, float *places)
{
    float *own = malloc((size_t)(4 * panels + 1) * sizeof(float)), *lines = own + 2 * panels + 1;
    int32_t *first = malloc(CELLS * sizeof(int32_t));
    if (own && first) {
        const float cell = (float)(CELLS / (edges[panels] - edges[0]));
        for (int64_t panel = 0; panel < panels; panel++) {
            own[panel] = lines[2 * panel] = (float)edges[panel];
            lines[2 * panel + 1] = (float)fmin(STEEP_BINS / (edges[panel + 1] - edges[panel]), 3e38);
        }
        /* What lies above the last edge by rounding stays in the last panel. */
        for (int64_t edge = panels; edge <= 2 * panels; edge++)
            own[edge] = INFINITY;
        /* Scalars in cells above that of an edge are above the edge, those in cells below it are below, however cells
        are rounded. */
        int64_t panel = 0, most = 0;
        for (int32_t i = 0; i < CELLS; i++) {
            first[i] = (int32_t)panel;
            while (panel + 1 < panels && cell_of(own[panel + 1], own[0], cell) == i)
                panel++;
            most = panel - first[i] > most ? panel - first[i] : most;
        }
        int64_t half = most > 0;
        while (half && 2 * half <= most)
            half *= 2;
        Search search = {0, parts, weight, own, lines, first, count, panels, half, cell, places};
        run(fork, parts, search_parts, &search);
    }
    const int failed = !own || !first;
    free(own);
    free(first);
    return failed;
}

int fill_panels(Fork fork, int64_t parts, const float *weight, int64_t groups, int64_t count, int found, Panels *grid)
{
    double nodes[POINTS];
    const int64_t size = grid->kind == ONE_BY_ONE ? count : grid->panels * POINTS;
    grid->points_size = size;
    grid->points = malloc((size_t)(groups * size) * sizeof(double));
    grid->at_edges = malloc((size_t)(POINTS * (grid->bins + 1)) * sizeof(double));
    if (!grid->points || !grid->at_edges)
        return 1;
    for (int64_t i = 0; grid->kind == ONE_BY_ONE && i < groups * size; i++)
        grid->points[i] = weight[i];
    if (grid->kind == ONE_BY_ONE)
        return 0;
    find_nodes(nodes);
    find_polynomials(grid->bins, nodes, grid->at_edges);
    for (int64_t group = 0; group < groups; group++) {
        const double *edges = grid->edges + group * (grid->panels + 1);
        if (grid->kind == STEEP) {
            if (!found && find_places_of(fork, parts, weight + group * count, count, edges, grid->panels,
                               grid->places + group * count))
                return 1;
            grid->starts[group] = 0;
            grid->steps[group] = 1;
        }
        for (int64_t panel = 0; panel < grid->panels; panel++)
            for (int k = 0; k < POINTS; k++)
                grid->points[group * size + panel * POINTS + k] =
                    grid->kind == STEEP ? edges[panel] + (edges[panel + 1] - edges[panel]) * nodes[k]
                                        : grid->starts[group] +
                                              grid->steps[group] * (double)grid->bins * ((double)panel + nodes[k]);
    }
    return 0;
}

void free_panels(Panels *grid)
{
    free(grid->points);
    free(grid->at_edges);
    grid->points = grid->at_edges = NULL;
}
