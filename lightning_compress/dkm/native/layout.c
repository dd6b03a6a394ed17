/* As panels.py, which explains it. */

#include "layout.h"

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
#define SAFETY 1.25
#define STEEP_BINS 64
#define LEAST_PLACES 512
#define MOST_PLACES (1 << 13)
#define STEPS 48
#define DRIFT 3.0
#define PI 3.141592653589793

static int by_value(const void *one, const void *other)
{
    const double difference = *(const double *)one - *(const double *)other;
    return difference > 0 ? 1 : difference < 0 ? -1 : 0;
}

static void sort(double *values, int64_t count) { qsort(values, (size_t)count, sizeof(double), by_value); }

/* A group's centroids before an iteration, ascending. */
static void sorted_palette(const Needs *needs, const double *trace, int64_t step, int64_t group, double *ordered)
{
    memcpy(ordered, trace + (step * needs->groups + group) * needs->clusters,
           (size_t)needs->clusters * sizeof(double));
    sort(ordered, needs->clusters);
}

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

/* Rate of change that the switches on either side of a place allow polynomials to be told at; `next` is where the
switch to its right was found before, places ascending. */
static double rate_at(double place, const double *middle, const double *gap, int64_t switches, double temperature,
                      int64_t *next)
{
    while (*next < switches && middle[*next] < place)
        ++*next;
    double rate = 0;
    for (int side = 0; side < 2; side++) {
        int64_t index = *next - side;
        index = index < 0 ? 0 : index > switches - 1 ? switches - 1 : index;
        const double effective = fmax(gap[index], sqrt(2 * temperature));
        const double distance = 2 * effective * (place - middle[index]) / temperature / PI;
        rate = fmax(rate, effective / temperature / sqrt(1 + distance * distance));
    }
    return rate;
}

/* Places at which the width that panels may have is computed, ascending; their number is the result. */
static int64_t find_places(double low, double high, const double *middles, const double *gaps, int64_t switches,
                           double temperature, double *places)
{
    const double soft = sqrt(temperature / 2);
    const int64_t everywhere = (int64_t)fmin(fmax(4 * (high - low) / soft, LEAST_PLACES), MOST_PLACES);
    int64_t count = 0;
    for (int64_t i = 0; i < everywhere; i++)
        places[count++] = low + (high - low) * (double)i / (double)(everywhere - 1);
    for (int64_t i = 0; i < switches; i++) {
        if (gaps[i] <= 2 * soft)
            continue;
        const double scale = temperature / gaps[i], reach = asinh((high - low) / scale);
        for (int step = 0; step < STEPS; step++) {
            const double away = sinh(reach * step / (STEPS - 1)) * scale;
            for (int side = -1; side <= 1; side += 2) {
                const double place = middles[i] + side * away;
                if (place >= low && place <= high)
                    places[count++] = place;
            }
        }
    }
    sort(places, count);
    int64_t distinct = 1;
    for (int64_t i = 1; i < count; i++)
        if (places[i] > places[distinct - 1])
            places[distinct++] = places[i];
    return distinct;
}

/* Edges of the panels of one group, each exactly a float; room for places and phases of as many as there can be. The
number of panels is the result, one more than `most` if there are too many. */
static int64_t find_edges(const Needs *needs, int64_t group, int64_t most, double *room, double *edges)
{
    const double low = needs->low[group], high = needs->high[group];
    const int64_t switches = needs->clusters - 1, all = switches * needs->known;
    double *middles = room, *gaps = middles + all, *ordered = gaps + all, *places = ordered + needs->clusters;
    double *phase = places + MOST_PLACES + 2 * STEPS * all;
    const double end = nextafterf((float)high, INFINITY);
    edges[0] = low;
    edges[1] = end;
    if (!(high > low) || switches < 1)
        return 1;
    for (int64_t step = 0; step < needs->known; step++) {
        sorted_palette(needs, needs->trace, step, group, ordered);
        for (int64_t k = 0; k < switches; k++) {
            middles[step * switches + k] = (ordered[k + 1] + ordered[k]) / 2;
            gaps[step * switches + k] = ordered[k + 1] - ordered[k];
        }
    }
    const int64_t count = find_places(low, high, middles, gaps, all, needs->temperature, places);
    memset(phase, 0, (size_t)count * sizeof(double));
    for (int64_t step = 0; step < needs->known; step++) {
        int64_t next = 0;
        for (int64_t i = 0; i < count; i++)
            phase[i] = fmax(phase[i], rate_at(places[i], middles + step * switches, gaps + step * switches, switches,
                                              needs->temperature, &next));
    }
    double before = phase[0], sum = 0;
    phase[0] = 0;
    for (int64_t i = 1; i < count; i++) {
        const double rate = phase[i];
        sum += (places[i] - places[i - 1]) * (rate + before) / 2 * SAFETY;
        before = rate;
        phase[i] = sum;
    }
    if (!(sum <= (double)most))
        return most + 1;
    const int64_t panels = sum > 1 ? (int64_t)ceil(sum) : 1;
    int64_t found = 1, place = 0;
    for (int64_t edge = 1; edge < panels; edge++) {
        const double at = sum * (double)edge / (double)panels;
        while (place + 2 < count && phase[place + 1] < at)
            place++;
        const double part = (at - phase[place]) / (phase[place + 1] - phase[place]);
        const double value = (float)(places[place] + part * (places[place + 1] - places[place]));
        if (value > edges[found - 1] && value < end)
            edges[found++] = value;
    }
    edges[found] = end;
    return found;
}

static int choose_steep(const Needs *needs, Panels *grid)
{
    const int64_t all = (needs->clusters - 1) * needs->known, places = MOST_PLACES + 2 * STEPS * all;
    const int64_t most = most_panels(needs->count);
    double *room = malloc((size_t)(2 * all + needs->clusters + 2 * places) * sizeof(double));
    int64_t panels[2] = {0, 0};
    if (!room)
        return 1;
    /* Found once for the greatest number, and again to leave as much room for each. */
    for (int round = 0; round < 2 && panels[0] <= most; round++)
        for (int64_t group = 0; group < needs->groups && (round == 0 || needs->groups > 1); group++) {
            double *edges = grid->edges + (round ? group * (panels[0] + 1) : 0);
            const int64_t found = find_edges(needs, group, most, room, edges);
            panels[round] = found > panels[round] ? found : panels[round];
            /* More panels above the last edge, which no weight falls into. */
            for (int64_t edge = found + 1; round && edge <= panels[0]; edge++)
                edges[edge] = edges[edge - 1] + (edges[found] - edges[found - 1]);
        }
    free(room);
    grid->kind = panels[0] > most || needs->count <= panels[0] * POINTS ? ONE_BY_ONE : STEEP;
    grid->panels = panels[0];
    grid->bins = STEEP_BINS;
    return 0;
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

first: of each cell, its first panel; no cell has more than `steps` edges after that. lines: of each panel, where it
begins and the bins that a unit of scalars crosses in it. */
typedef struct {
    int64_t next, parts;
    const float *weight, *edges, *lines;
    const int32_t *first;
    int64_t count, panels, steps;
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
            for (int64_t step = 0; step < search->steps; step++)
                for (int64_t i = 0; i < length; i++)
                    panels[i] += weight[i] >= edges[panels[i] + 1];
            for (int64_t i = 0; i < length; i++) {
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
    float *own = malloc((size_t)(3 * panels + 1) * sizeof(float)), *lines = own + panels + 1;
    int32_t *first = malloc(CELLS * sizeof(int32_t));
    if (own && first) {
        const float cell = (float)(CELLS / (edges[panels] - edges[0]));
        for (int64_t panel = 0; panel < panels; panel++) {
            own[panel] = lines[2 * panel] = (float)edges[panel];
            lines[2 * panel + 1] = (float)fmin(STEEP_BINS / (edges[panel + 1] - edges[panel]), 3e38);
        }
        /* What lies above the last edge by rounding stays in the last panel. */
        own[panels] = INFINITY;
        /* Scalars in cells above that of an edge are above the edge, those in cells below it are below, however cells
        are rounded. */
        int64_t panel = 0, steps = 0;
        for (int32_t i = 0; i < CELLS; i++) {
            first[i] = (int32_t)panel;
            while (panel + 1 < panels && cell_of(own[panel + 1], own[0], cell) == i)
                panel++;
            steps = panel - first[i] > steps ? panel - first[i] : steps;
        }
        Search search = {0, parts, weight, own, lines, first, count, panels, steps, cell, places};
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
